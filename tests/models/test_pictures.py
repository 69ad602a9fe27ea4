"""From a raw picture to tensors, and back from a map to the picture: every mode and file, every geometry."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from regard.errors import InputError
from regard.models.geometry import probe
from regard.models.pictures import ReadPicture, read_picture, to_rgb
from regard.reader import load
from support.folders import image_processor, picture

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
def test_opaque_modes_read_as_pillow_converts_them(mode):
    image = picture(mode=mode)
    assert torch.equal(to_rgb(image), torch.from_numpy(np.array(image.convert("RGB"))))


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_transparent_pixels_are_laid_over_white(mode):
    image = Image.new("RGBA", (4, 3), (0, 0, 0, 0))
    image.putpixel((1, 1), (0, 0, 0, 255))
    via = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(mode)
    image = image.convert(via).convert(mode) if via else image.convert(mode)
    if image.getpixel((0, 0))[-1] != 0:
        pytest.skip(f"this Pillow loses transparency on the way to {mode}")
    pixels = to_rgb(image)
    assert pixels[1, 1].tolist() == [0, 0, 0]
    assert pixels[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_laid_over_white(mode, tmp_path):
    image = Image.new(mode, (4, 3), 0)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 1), 1 if mode == "P" else (9 if mode == "L" else (9, 9, 9)))
    image.save(tmp_path / "p.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    pixels, _ = read_picture(tmp_path / "p.png")
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == ([255, 0, 0] if mode == "P" else [9, 9, 9])


def test_16_bit_grey_is_divided_by_257(tmp_path):
    values = np.array([[0, 257, 65535], [25700, 128, 129]], dtype=np.uint16)
    expected = [[0, 1, 255], [100, 0, 1]]
    Image.fromarray(values).save(tmp_path / "wide.png")
    for raw in (tmp_path / "wide.png", Image.fromarray(values)):
        assert read_picture(raw)[0][..., 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([[0, 100, 255]], np.int32, [0, 100, 255]),
        ([[0, 257, 65535]], np.int32, [0, 1, 255]),
        ([[-100, 0, 100]], np.int32, [0, 128, 255]),
        ([[0.0, 0.5, 1.0]], np.float32, [0, 128, 255]),
        ([[0.0, 100.0, 255.0]], np.float32, [0, 100, 255]),
        ([[-1.0, 0.0, 3.0]], np.float32, [0, 64, 255]),
        ([[1e6, 1e6, 1e6]], np.float32, [0, 0, 0]),
    ],
)
def test_integers_and_floats_are_scaled_sensibly(values, dtype, expected):
    assert to_rgb(Image.fromarray(np.array(values, dtype=dtype)))[0, :, 0].tolist() == expected


def test_not_a_number_is_refused():
    with pytest.raises(InputError, match="picture 0: the picture holds NaN or infinity"):
        read_picture(Image.fromarray(np.array([[np.nan, 1]], dtype=np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation, tmp_path):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().save(tmp_path / "turned.png", exif=exif)
    pixels, _ = read_picture(tmp_path / "turned.png")
    assert tuple(pixels.shape) == ((30, 40, 3) if orientation < 5 else (40, 30, 3))
    with Image.open(tmp_path / "turned.png") as image:
        assert torch.equal(pixels, torch.from_numpy(np.array(ImageOps.exif_transpose(image))))
    if orientation == 6:  # the camera was held upright: the first row is now the last column
        assert torch.equal(pixels[:, -1], torch.from_numpy(np.array(picture()))[0])


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "a.gif")[0][0, 0].tolist() == [255, 0, 0]


def test_arrays_grey_and_with_alpha_are_read():
    assert read_picture(np.full((3, 4), 7, np.uint8))[0].shape == (3, 4, 3)
    alpha = np.zeros((3, 4, 4), np.uint8)
    assert read_picture(alpha)[0].unique().tolist() == [255]
    strided = np.zeros((6, 8, 3), np.uint8)[::2, ::-1]
    assert read_picture(strided)[0].shape == (3, 8, 3)


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        ([0, 0, 127, 255], ["75 % of p.png is transparent, and was laid over white for the model"]),
        ([255] * 399 + [0], ["less than 1 % of p.png is transparent, and was laid over white for the model"]),
        ([255] * 4, []),
    ],
)
def test_what_was_transparent_is_noted(alpha, said, tmp_path):
    Image.fromarray(np.array([[[9, 9, 9, a] for a in alpha]], np.uint8)).save(tmp_path / "p.png")
    assert ReadPicture.of(tmp_path / "p.png").notes == said


def test_a_receipt_says_what_was_transparent(image_folder, tmp_path):
    picture(40, 40).convert("RGBA").save(tmp_path / "opaque.png")
    clear = picture(40, 40).convert("RGBA")
    clear.putalpha(Image.new("L", (40, 40), 0))
    clear.save(tmp_path / "clear.png")
    reader = load(image_folder("vit"))
    notes = reader.explain(tmp_path / "clear.png", method="gae").receipt.notes
    assert "100 % of clear.png is transparent, and was laid over white for the model" in notes
    assert not any("transparent" in n for n in reader.explain(tmp_path / "opaque.png", method="gae").receipt.notes)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("this is no picture")
    picture(200, 200).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:300])
    picture(200, 200).save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:900])
    return {
        "missing": (folder / "none.png", "no such picture: .*none.png"),
        "folder": (folder, "is a folder; give a picture file"),
        "empty": (folder / "empty.png", r"is empty \(0 bytes\)"),
        "text": (folder / "text.png", "is not a picture that Pillow can read"),
        "cut png": (folder / "cut.png", "cut.png is damaged"),
        "cut jpg": (folder / "cut.jpg", "cut.jpg is damaged"),
        "long": (Path("x" * 5000), "cannot be read"),
        "null": (Path("a\0b"), "cannot be read|no such"),
    }


@pytest.mark.parametrize("case", ["missing", "folder", "empty", "text", "cut png", "cut jpg", "long", "null"])
def test_bad_picture_files_are_named_in_one_line(case, tmp_path):
    path, said = bad_files(tmp_path)[case]
    with pytest.raises(InputError, match=said) as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)


def test_every_truncation_of_a_file_is_an_input_error_or_reads(tmp_path):
    for kind in ("png", "jpg", "gif", "bmp", "tiff", "webp"):
        path = tmp_path / f"p.{kind}"
        picture(32, 32).save(path)
        whole = path.read_bytes()
        for length in range(1, len(whole), max(1, len(whole) // 25)):
            path.write_bytes(whole[:length])
            with contextlib.suppress(InputError):
                read_picture(path)


def test_a_decompression_bomb_is_refused(cat, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"cat.png is too large to be opened safely"):
        read_picture(cat)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(cat):
    cat.chmod(0)
    with pytest.raises(InputError, match="permission denied"):
        read_picture(cat)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (np.zeros((3, 4, 3), np.float32), "dtype float32; give uint8"),
        (torch.zeros(3, 4, 3), r"dtype torch.float32; give uint8"),
        (np.zeros((3, 8, 9), np.uint8), "3 x 8 x 9, channels first"),
        (np.zeros((2, 8, 9, 3), np.uint8), "several pictures as a list"),
        (np.zeros((0, 4, 3), np.uint8), "is empty"),
        (np.zeros((5,), np.uint8), "has shape 5; give"),
        (Image.new("RGB", (0, 4)), r"empty picture \(0 x 4\)"),
        (7, "is of type int; give a path, a PIL image"),
        (None, "is of type NoneType"),
    ],
)
def test_bad_pictures_in_memory_are_named(raw, said):
    with pytest.raises(InputError, match=said):
        read_picture(raw)


def test_a_users_image_is_left_open_and_unchanged(cat):
    with Image.open(cat) as image:
        before = image.mode, image.size
        _, name = read_picture(image)
        assert (image.mode, image.size) == before
        image.getpixel((0, 0))
        assert name == "cat.png"


# ---------------------------------------------------------------- geometry


def cropped(length: int, resized: int, crop: int) -> tuple[float, float]:
    """Where a centre crop of a resized side begins and ends, in pixels of the original: Transformers' own rounding."""
    cut = (resized - crop) // 2 if crop <= resized else -math.ceil((crop - resized) / 2)
    return cut * length / resized, (cut + crop) * length / resized


def expected_box(name: str, width: int, height: int) -> tuple[float, ...]:
    def shortest(edge: int) -> tuple[int, int]:
        long = int(edge * max(width, height) / min(width, height))
        return (edge, long) if width <= height else (long, edge)

    resized, crop = {
        "vit": ((32, 32), 32),
        "clip": (shortest(224), 224),
        "deit": ((256, 256), 224),
        "beit": ((36, 36), 32),
        "dinov2": (shortest(256), 224),
        "padded": (shortest(180), 224),
        "convnext": (shortest(256), 224),
    }[name]
    (left, right), (top, bottom) = cropped(width, resized[0], crop), cropped(height, resized[1], crop)
    return left, top, right, bottom


@pytest.mark.parametrize("name", ["vit", "clip", "deit", "beit", "dinov2", "padded", "convnext"])
@pytest.mark.parametrize("shape", [(640, 480), (300, 1000), (77, 50), (33, 201), (255, 510), (16, 24)])
def test_the_box_is_where_the_model_looked(name, shape):
    processor = image_processor(name)

    def process(pixels):
        made = processor(images=[Image.fromarray(pixels.numpy())], return_tensors="pt")["pixel_values"][0]
        rows.append(made.shape)
        return made

    rows: list[torch.Size] = []
    box, expected = probe(process, *shape).box, expected_box(name, *shape)
    for axis, side in ((0, rows[0][2]), (1, rows[0][1])):
        pixel = (expected[axis + 2] - expected[axis]) / side  # of the output, in pixels of the original
        for end in (axis, axis + 2):
            assert abs(box[end] - expected[end]) < max(0.25 * pixel, 1e-6)


def plain(image_to_array):
    return lambda pixels: (
        torch.from_numpy(np.ascontiguousarray(image_to_array(pixels.numpy()))).permute(2, 0, 1).float()
    )


def test_crop_before_resize_padding_and_no_change_are_measured():
    def crop_then_resize(p):
        return np.array(Image.fromarray(p[10:73, 5:98]).resize((32, 32)))

    def pad_right(p):
        return np.pad(p, ((0, 200 - p.shape[0]), (0, 200 - p.shape[1]), (0, 0)), constant_values=124)

    box = probe(plain(crop_then_resize), 120, 90).box
    np.testing.assert_allclose(box, (5, 10, 98, 73), atol=0.3 * 93 / 32)
    assert probe(plain(pad_right), 120, 90).box == (0, 0, 200, 200)
    assert probe(plain(lambda p: p), 120, 90).box == (0, 0, 120, 90)


@pytest.mark.parametrize(
    "strange",
    [
        lambda p: p[:, ::-1],
        lambda p: p.transpose(1, 0, 2),
        lambda p: np.concatenate([p[:, ::2], p[:, 1::2]], axis=1),
        lambda p: np.zeros_like(p),
        lambda p: 255 - p,
    ],
)
def test_what_cannot_be_undone_has_no_box(strange):
    assert probe(plain(strange), 120, 90).box is None


def test_tiny_pictures_have_a_box_or_none_but_no_error():
    process = plain(lambda p: np.array(Image.fromarray(p).resize((32, 32))))
    for width, height in ((1, 1), (1, 40), (2, 3), (5, 7)):
        box = probe(process, width, height).box
        if box is not None:
            np.testing.assert_allclose(box, (0, 0, width, height), atol=0.5)


def test_a_picture_off_centre_lies_where_the_box_says(image_folder):
    """A white square of a black 90 x 60 picture, found in the model's pixels, comes back to its place by the box."""
    reader = load(image_folder("dinov2"))
    array = np.zeros((60, 90, 3), np.uint8)
    array[30:42, 50:62] = 255
    reading = reader.read(array)
    bright = reading.inputs["pixel_values"][0].mean(0)
    rows, columns = torch.where(bright > bright.mean() + (bright.max() - bright.mean()) / 2)
    left, top, right, bottom = reading.raw["pixel_values"][0].box
    x = left + (columns.double().mean() + 0.5) * (right - left) / 32
    y = top + (rows.double().mean() + 0.5) * (bottom - top) / 32
    assert abs(x - 56) < 0.5 * (right - left) / 32
    assert abs(y - 36) < 0.5 * (bottom - top) / 32


def test_each_size_is_probed_once(image_folder):
    reader = load(image_folder("vit"))
    calls = []
    process = reader._process
    reader._process = lambda pixels: calls.append(1) or process(pixels)  # type: ignore[method-assign]
    reader.read([picture(), picture()])
    first = len(calls)
    reader.read(picture())
    assert len(calls) == first + 1


def test_a_mirroring_processor_is_told(cat):
    model = nn.Conv2d(3, 1, 1)
    mirrored = load(model, processor=lambda i: torch.from_numpy(np.array(i)[:, ::-1].copy()).permute(2, 0, 1) / 255)
    with pytest.warns(UserWarning, match="it could not be found which part of cat.png the model saw"):
        reading = mirrored.read(cat)
    assert reading.raw["input"][0].box == (0, 0, 40, 30)


def test_pictures_of_different_output_sizes_are_refused_together():
    reader = load(nn.Conv2d(3, 1, 1), processor=lambda i: torch.from_numpy(np.array(i)).permute(2, 0, 1) / 255)
    with pytest.raises(InputError, match=r"different sizes \(3x30x40, 3x70x50\); give them one by one"):
        reader.read([picture(), picture(50, 70)])


def test_a_picture_the_processor_cannot_take_is_named(cat):
    def refuse(image):
        raise ValueError("too narrow")

    with pytest.raises(InputError, match=r"cannot take cat.png \(40 x 30 pixels\): too narrow"):
        load(nn.Conv2d(3, 1, 1), processor=refuse).read(cat)
