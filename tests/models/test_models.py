"""From a folder and a raw picture or sentence to tensors and labels: tiny random models, no network."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import regard
from regard.errors import InputError, ModelError, RegardError, TargetError, UnknownName
from regard.explanation.raw_inputs import Picture, Text, words_of
from regard.models.geometry import probe
from regard.models.loading import load
from regard.models.pictures import read_picture, to_rgb
from regard.models.texts import words
from regard.reader import Reader

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
NAMES = {0: "cat, house cat", 1: "Dog", 2: "7"}


# ---------------------------------------------------------------- folders


def size(height: int, width: int | None = None) -> dict[str, int]:
    return {"height": height, "width": width or height}


def pillow_processor(kind: str) -> str:
    """The class that reads pictures with Pillow alone; the first releases of transformers 5 call it by the plain name."""
    names = (f"{kind}ImageProcessorPil", f"{kind}ImageProcessor")
    return next(n for n in names if hasattr(transformers, n))


def image_parts(name: str):
    """Config, model class and image processor of a tiny image classifier that takes 32 x 32 pixels."""
    t = transformers
    common = {
        **SMALL,
        "image_size": 32,
        "patch_size": 8,
        "id2label": NAMES,
        "label2id": {v: k for k, v in NAMES.items()},
    }
    swin = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    crop = {"crop_size": size(32), "do_center_crop": True}
    return {
        "vit": (t.ViTConfig(**common), pillow_processor("ViT"), {"size": size(32)}),
        "deit": (t.DeiTConfig(**common), pillow_processor("DeiT"), {"size": size(36), **crop}),
        "beit": (t.BeitConfig(**common), pillow_processor("Beit"), {"size": size(36), **crop}),
        "dinov2": (t.Dinov2Config(**common), pillow_processor("Bit"), {"size": {"shortest_edge": 36}, **crop}),
        "swin": (t.SwinConfig(**swin, id2label=NAMES), pillow_processor("ViT"), {"size": size(32)}),
    }[name]


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            config, processor, settings = image_parts(name)
            head = type(config).__name__.replace("Config", "ForImageClassification")
            getattr(transformers, head)(config).save_pretrained(folder)
            getattr(transformers, processor)(**settings).save_pretrained(folder)
            made[name] = folder
        return made[name]

    return make


def wordpiece(**kw):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = ["the", "movie", "love", "##ly", "don", "'", "t", ",", ".", "great", "a", "##n", "of", "mind", "##s"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(special + pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names, **kw)


def byte_level(trim: bool, **kw):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a lovely movie that moves the mind"] * 3, trainer)
    if trim:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", **kw)


def text_parts(name: str):
    t = transformers
    vocabulary = {"vocab_size": 320, "id2label": {0: "negative", 1: "positive"}}
    distil = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 20}
    roberta = {"max_position_embeddings": 22, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    gpt2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 30, "eos_token_id": 2, "bos_token_id": 0}
    bpe = byte_level(trim=True, pad_token="<pad>", bos_token="<s>", cls_token="<s>", sep_token="</s>")
    return {
        "bert": (t.BertConfig(**SMALL, **vocabulary, max_position_embeddings=20), wordpiece()),
        "distilbert": (t.DistilBertConfig(**distil, **vocabulary), wordpiece()),
        "roberta": (t.RobertaConfig(**SMALL, **vocabulary, **roberta), bpe),
        "gpt2": (t.GPT2Config(**gpt2, **vocabulary), byte_level(trim=False)),
    }[name]


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            config, tokenizer = text_parts(name)
            torch.manual_seed(0)
            transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[name] = folder
        return made[name]

    return make


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    x = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    return Image.fromarray(x).convert(mode)


@pytest.fixture
def cat(tmp_path) -> Path:
    picture().save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


# ---------------------------------------------------------------- image models


@pytest.mark.parametrize("name", ["vit", "deit", "beit", "dinov2", "swin"])
def test_image_folders_load_read_and_run(name, image_folder, cat):
    reader = load(image_folder(name))
    assert reader.kind == "image"
    assert reader.stream == reader.model.main_input_name == "pixel_values"
    assert reader.labels == list(NAMES.values())
    assert not reader.model.training
    reading = reader.read([cat, picture(50, 70)])
    assert reading.inputs["pixel_values"].shape == (2, 3, 32, 32)
    assert reader.model(**reading.inputs).logits.shape == (2, 3)
    assert reading.labels == reader.labels
    settings = reader.processor
    np.testing.assert_allclose(reading.mean, settings.image_mean, atol=1e-5)
    np.testing.assert_allclose(reading.std, settings.image_std, atol=1e-5)
    first, second = reading.raw["pixel_values"]
    assert (first.name, second.name) == ("cat.png", "picture 1")
    assert torch.equal(first.pixels, torch.from_numpy(np.array(picture())))
    alone = reader.read(cat).inputs["pixel_values"]
    assert torch.equal(alone[0], reading.inputs["pixel_values"][0])
    theirs = settings(images=[picture()], return_tensors="pt")["pixel_values"]
    assert torch.equal(alone, theirs)


def test_one_picture_in_every_form_reads_alike(image_folder, cat):
    reader = load(image_folder("vit"))
    array = np.array(picture())
    forms = [cat, str(cat), picture(), array, torch.from_numpy(array)]
    read = [reader.read(form).inputs["pixel_values"] for form in forms]
    assert all(torch.equal(read[0], r) for r in read)


def test_users_module_is_left_as_it_is(image_folder, cat):
    made = load(image_folder("vit"))
    model = made.model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    reader = load(model, processor=made.processor)
    reader.read(cat)
    assert reader.model is model
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    by_folder = load(model, processor=image_folder("vit"))
    assert type(by_folder.processor) is type(made.processor)


def test_plain_module_with_a_callable_takes_its_own_keyword_and_dtype(cat):
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x):
            return x * self.scale

    def transform(image):
        return torch.from_numpy(np.array(image.resize((16, 8)))).permute(2, 0, 1) / 255.0

    reading = load(Tiny(), processor=transform).read([cat])
    assert list(reading.inputs) == ["x"]
    assert reading.inputs["x"].shape == (1, 3, 8, 16)
    assert reading.inputs["x"].dtype == torch.float64
    assert reading.raw["x"][0].box == (0, 0, 40, 30)
    assert (reading.mean, reading.std, reading.labels) == ((0, 0, 0), (1, 1, 1), None)


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
        (7, "is a int; give a path, a PIL image"),
        (None, "is a NoneType"),
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


def image_processor(name: str):
    kind, settings = {
        "vit": ("ViT", {"size": size(32)}),
        "clip": ("CLIP", {"size": {"shortest_edge": 224}, "crop_size": size(224)}),
        "deit": ("DeiT", {"size": size(256), "crop_size": size(224)}),
        "beit": ("Beit", {"size": size(36), "crop_size": size(32), "do_center_crop": True}),
        "dinov2": ("Bit", {"size": {"shortest_edge": 256}, "crop_size": size(224)}),
        "padded": ("Bit", {"size": {"shortest_edge": 180}, "crop_size": size(224)}),
        "convnext": ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    }[name]
    return getattr(transformers, pillow_processor(kind))(**settings)


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
    with pytest.warns(UserWarning, match="what part of cat.png the model saw could not be found"):
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


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "gpt2"])
def test_text_folders_load_read_and_run(name, text_folder):
    reader = load(text_folder(name))
    assert (reader.kind, reader.stream) == ("text", "input_ids")
    assert reader.labels == ["negative", "positive"]
    raw = ["the lovely movie", "don't, the"]
    reading = reader.read(raw)
    ids = reading.inputs["input_ids"]
    with torch.no_grad():
        batch = reader.model(**reading.inputs).logits
        alone = torch.cat([reader.model(**reader.read(text).inputs).logits for text in raw])
    assert torch.allclose(batch, alone, atol=1e-6)
    special = reading.special["input_ids"]
    assert special.shape == ids.shape
    assert special.dtype == torch.bool
    assert special[reading.inputs["attention_mask"] == 0].all()
    for i, text in enumerate(reading.raw["input_ids"]):
        assert isinstance(text, Text)
        assert len(text.tokens) == len(text.offsets) == len(text.special) == ids.shape[1]
        assert text.special == special[i].tolist()
        assert text.text == raw[i]
        assert all(span == (0, 0) for span, s in zip(text.offsets, text.special) if s)
        summed = words_of(text, [0.0 if s else 1.0 for s in text.special])
        real = sum(not s and not text.text[a:b].isspace() for (a, b), s in zip(text.offsets, text.special))
        assert sum(word.score for word in summed) == real
        assert all(word.score > 0 for word in summed)


def test_words_are_joined_from_pieces_through_offsets(text_folder):
    text = load(text_folder("bert")).read("The lovely movie, don't").raw["input_ids"][0]
    assert text.tokens == ["[CLS]", "the", "love", "##ly", "movie", ",", "don", "'", "t", "[SEP]"]
    scores = [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    summed = [(w.text, w.score) for w in words_of(text, scores)]
    assert summed == [("The", 1), ("lovely", 5), ("movie", 4), (",", 5), ("don't", 21)]


def test_byte_level_offsets_begin_after_the_space(text_folder):
    text = load(text_folder("gpt2")).read("the lovely movie é").raw["input_ids"][0]
    assert " lovely" in text.tokens
    assert text.offsets[text.tokens.index(" lovely")] == (4, 10)
    assert text.offsets[-1] == text.offsets[-2] == (17, 18)  # two bytes of one letter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop!", ["Don't", "stop", "!"]),
        ("don’t", ["don’t"]),
        ("movie, great.", ["movie", ",", "great", "."]),
        ("wait... what?!", ["wait", "...", "what", "?", "!"]),
        ("a well-made $3.50, 1,000-page (tome)", ["a", "well-made", "$", "3.50", ",", "1,000-page", "(", "tome", ")"]),
        ("'quoted' dogs'", ["'", "quoted", "'", "dogs", "'"]),
        ("e.g. x.y", ["e", ".", "g", ".", "x", ".", "y"]),
        ("  tabs\tand\nlines  ", ["tabs", "and", "lines"]),
        ("naïve nai\u0308ve हिन्दी", ["naïve", "nai\u0308ve", "हिन्दी"]),
        ("我爱你 ok", ["我", "爱", "你", "ok"]),
        ("👩\u200d🚀 ❤\ufe0f", ["👩\u200d🚀", "❤\ufe0f"]),
        ("", []),
    ],
)
def test_words_as_a_reader_sees_them(text, expected):
    assert [text[a:b] for a, b in words(text)] == expected


def test_every_character_that_is_no_space_lies_in_exactly_one_word():
    generator = np.random.default_rng(0)
    pool = list("ab1 .,'’-é\u0308日\u200d🚀$\n\t_ह\u093f")
    for _ in range(300):
        text = "".join(generator.choice(pool, 12))
        covered = [i for a, b in words(text) for i in range(a, b)]
        assert len(covered) == len(set(covered))
        missed = {text[i] for i in range(len(text)) if i not in set(covered)}
        assert all(c.isspace() for c in missed)


def of_pairs(folder: Path) -> tuple[Any, Any]:
    from tokenizers import processors

    tokenizer = wordpiece()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return load(folder, processor=tokenizer), tokenizer


def test_a_pair_of_texts_is_read_as_the_tokenizer_reads_it(text_folder):
    reader, tokenizer = of_pairs(text_folder("bert"))
    first, second = "The lovely movie", "  don't mind, a movie"
    reading = reader.read([(first, second), "great movie"])
    alone = tokenizer(first, second, return_tensors="pt")
    length = alone["input_ids"].shape[1]
    assert int(alone["token_type_ids"].sum()) > 0
    for key, value in alone.items():
        assert reading.inputs[key][0, :length].tolist() == value[0].tolist()
    text = reading.raw["input_ids"][0]
    assert text.text == f"{first}\n{second}"
    at = {t: text.text[a:b] for t, (a, b) in zip(text.tokens, text.offsets, strict=True) if b}
    assert at == {"the": "The", "love": "love", "##ly": "ly", "don": "don", "'": "'", "t": "t", "mind": "mind",
                  ",": ",", "a": "a", "movie": "movie"}  # fmt: skip
    summed = [(w.text, w.score) for w in words_of(text, [float(not s) for s in text.special])]
    assert summed == [
        ("The", 1),
        ("lovely", 2),
        ("movie", 1),
        ("don't", 3),
        ("mind", 1),
        (",", 1),
        ("a", 1),
        ("movie", 1),
    ]
    exp = reader.explain((first, second), method="gae")
    direct = regard.explain(reader.model, dict(alone), method="gae")
    torch.testing.assert_close(exp.scores["input_ids"], direct.scores["input_ids"])


@pytest.mark.parametrize("pair", [("great", " "), ("great", 3), ("a", "the", "movie")])
def test_odd_pairs_of_texts_are_refused(pair, text_folder):
    reader, _ = of_pairs(text_folder("bert"))
    with pytest.raises(InputError, match=r"text 0 is (empty|a int|a tuple)"):
        reader.read(pair)


def test_a_pair_that_is_too_long_is_refused_or_cut(text_folder):
    reader, _ = of_pairs(text_folder("bert"))
    long = ("the movie " * 6, "a great mind " * 5)
    with pytest.raises(InputError, match="text 0 makes 30 tokens"):
        reader.read(long)
    with pytest.warns(UserWarning, match="only its first 20 tokens"):
        text = reader.read(long, truncate=True).raw["input_ids"][0]
    assert {text.text[a:b] for a, b in text.offsets if b} == {"the", "movie", "a", "great", "mind"}


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_empty_text_is_refused(text, text_folder):
    reader = load(text_folder("bert"))
    with pytest.raises(InputError, match="text 1 is empty"):
        reader.read(["great", text])


def test_other_bad_raw_input_is_named(text_folder, image_folder):
    reader = load(text_folder("bert"))
    with pytest.raises(InputError, match="text 0 is a int; give a str"):
        reader.read(3)
    with pytest.raises(InputError, match="an empty list was given"):
        reader.read([])
    with pytest.raises(InputError, match="text 0 makes no tokens"):
        reader.read("\u200b\u200b")
    with pytest.raises(InputError, match="no such picture: cat in the hat"):
        load(image_folder("vit")).read("cat in the hat")


@pytest.mark.parametrize(("name", "limit"), [("bert", 20), ("distilbert", 20), ("roberta", 20), ("gpt2", 30)])
def test_too_long_a_text_is_stated_and_never_cut_silently(name, limit, text_folder):
    reader = load(text_folder(name))
    fits = next(n for n in range(limit, 0, -1) if len(reader.processor("a " * n)["input_ids"]) <= limit)
    reading = reader.read("a " * fits)
    reader.model(**reading.inputs)
    said = rf"text 0 makes \d+ tokens, and \w+ takes {limit}; split it, or pass truncate=True"
    with pytest.raises(InputError, match=said):
        reader.read("a " * (limit + 1))
    before = reader.processor.backend_tokenizer.to_str()
    with pytest.warns(UserWarning, match=f"takes {limit}: only its first {limit} tokens were read"):
        cut = reader.read("a " * 40, truncate=True)
    assert cut.inputs["input_ids"].shape == (1, limit)
    assert cut.raw["input_ids"][0].text == "a " * 40
    reader.model(**cut.inputs)
    assert reader.processor.backend_tokenizer.to_str() == before


def test_the_tokenizers_own_limit_counts(text_folder):
    reader = load(text_folder("bert"), processor=wordpiece(model_max_length=6))
    with pytest.raises(InputError, match="makes 7 tokens, and BertForSequenceClassification takes 6"):
        reader.read("the the the the the")


def test_padding_on_the_left_is_kept_and_marked(text_folder):
    folder = text_folder("bert")
    reader = load(folder, processor=wordpiece(padding_side="left"))
    raw = ["the lovely movie", "great"]
    reading = reader.read(raw)
    text = reading.raw["input_ids"][1]
    assert text.tokens == ["[PAD]", "[PAD]", "[PAD]", "[CLS]", "great", "[SEP]"]
    assert text.offsets == [(0, 0)] * 4 + [(0, 5), (0, 0)]
    assert text.special == [True, True, True, True, False, True]


def test_padding_on_the_left_keeps_a_decoders_positions(text_folder):
    reader = load(text_folder("gpt2"), processor=byte_level(trim=False, padding_side="left"))
    raw = ["the lovely movie", "the"]
    reading = reader.read(raw)
    assert reading.inputs["position_ids"][1].tolist()[-2:] == [0, 1]
    assert "position_ids" not in reader.read(raw[0]).inputs
    with torch.no_grad():
        batch = reader.model(**reading.inputs).logits
        alone = torch.cat([reader.model(**reader.read(t).inputs).logits for t in raw])
    assert (alone[0] - alone[1]).abs().max() > 1e-4
    assert torch.allclose(batch, alone, atol=1e-6)


def test_a_tokenizer_without_padding_token_is_left_so(text_folder):
    folder = text_folder("gpt2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    before = tokenizer.backend_tokenizer.to_str()
    reader = load(model, processor=tokenizer)
    reader.read("the movie")
    with pytest.raises(InputError, match=r"takes one text at a time.*set model.config.pad_token_id"):
        reader.read(["the movie", "a"])
    assert model.config.pad_token_id is None
    assert tokenizer.pad_token is None
    assert tokenizer.backend_tokenizer.to_str() == before
    model.config.pad_token_id = tokenizer.eos_token_id
    ids = reader.read(["the lovely movie", "a"]).inputs["input_ids"]
    assert ids[1, -1] == tokenizer.eos_token_id


def test_keywords_that_the_model_does_not_take_are_left_out(text_folder):
    model = load(text_folder("distilbert")).model
    tokenizer = wordpiece(model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    assert "token_type_ids" in tokenizer("a")
    assert set(load(model, processor=tokenizer).read("a").inputs) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("head", "task"),
    [
        ("BertForMaskedLM", "masked-lm"),
        ("BertForTokenClassification", "token-classification"),
        ("BertForQuestionAnswering", "question-answering"),
        ("GPT2LMHeadModel", "causal-lm"),
    ],
)
def test_other_heads_load_by_their_architecture(head, task, tmp_path):
    config, tokenizer = text_parts("gpt2" if head.startswith("GPT2") else "bert")
    if head.endswith(("LM", "LMHeadModel", "Answering")):
        config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    getattr(transformers, head)(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reader = load(tmp_path)
    assert type(reader.model).__name__ == head
    assert reader.labels == (["negative", "positive"] if "Token" in head else [])
    reader.model(**reader.read(["the movie", "a"]).inputs)
    assert type(load(tmp_path, task=task).model).__name__ == head


# ---------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "none", "no such model folder"),
        (lambda p: str(p / "none"), "no such model folder"),
        (lambda p: "./none", "no such model folder"),
        (lambda p: "a/b/c", "no such model folder"),
        (lambda p: "", "no such model folder"),
        (lambda p: p, "is not a model folder: it has no config.json"),
        (lambda p: p / "file", "is a file; give the folder"),
        (lambda p: p / "bad json", "cannot be loaded: .*not a valid JSON"),
        (lambda p: p / "no type", "cannot be loaded: .*model_type"),
        (lambda p: p / "new type", "cannot be loaded: .*zork"),
        (lambda p: p / "own code", "own code.*pass trust_remote_code=True if you trust it"),
        (lambda p: "nobody/nothing", "the Hugging Face hub cannot be reached; give a local folder"),
    ],
)
def test_models_that_cannot_be_found_are_named_in_one_line(make, said, tmp_path):
    (tmp_path / "file").write_text("x")
    code = '{"auto_map": {"AutoConfig": "code.Config"}, "model_type": "own"}'
    for name, text in (
        ("bad json", "{"),
        ("no type", "{}"),
        ("new type", '{"model_type": "zork"}'),
        ("own code", code),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        load(make(tmp_path), local_files_only=True)
    assert "\n" not in str(caught.value)


def test_zoo_names_are_resolved_or_corrected(image_folder, monkeypatch):
    zoo = SimpleNamespace(names=lambda: ["zoo/vit-scenes"], folder=lambda name: image_folder("vit"))
    monkeypatch.setitem(sys.modules, "regard.zoo", zoo)
    monkeypatch.setattr(regard, "zoo", zoo, raising=False)
    assert load("zoo/vit-scenes").kind == "image"
    with pytest.raises(UnknownName, match="unknown zoo model 'zoo/vit-scene'; did you mean 'zoo/vit-scenes'"):
        load("zoo/vit-scene")


def test_pickled_weights_are_refused_with_the_way_out(image_folder, tmp_path):
    source = load(image_folder("vit"))
    source.model.config.save_pretrained(tmp_path)
    source.processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds no weights \(model.safetensors\)"):
        load(tmp_path)
    torch.save(source.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights.*convert it once.*use_safetensors=False"):
        load(tmp_path)
    assert load(tmp_path, use_safetensors=False).kind == "image"
    (tmp_path / "model.safetensors").write_bytes(b"junk" * 10)
    with pytest.raises(ModelError, match=r"the weights of .* cannot be loaded"):
        load(tmp_path)


def test_weights_that_would_be_random_are_named(image_folder, tmp_path):
    source = load(image_folder("vit"))
    source.model.vit.save_pretrained(tmp_path)
    source.processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds ViTModel, whose task is not one that Regard loads \(image-class"):
        load(tmp_path)
    with pytest.raises(
        ModelError, match=r"lacks weights of ViTForImage.*: classifier.bias, classifier.weight; .*random"
    ):
        load(tmp_path, task="image-classification")
    assert load(tmp_path, task="image-classification", allow_missing=True).kind == "image"
    config = source.model.config.__class__.from_pretrained(image_folder("vit"))
    config.id2label = dict.fromkeys(range(5), "x")
    config.save_pretrained(tmp_path)
    source.model.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text((tmp_path / "config.json").read_text())
    with pytest.raises(ModelError, match=r"of another shape.*classifier.weight"):
        load(tmp_path / "other", task="image-classification")


def test_a_missing_processor_is_named(image_folder, text_folder, tmp_path):
    load(image_folder("vit")).model.save_pretrained(tmp_path / "image")
    with pytest.raises(InputError, match=r"the image processor of .* cannot be loaded"):
        load(tmp_path / "image")
    assert load(tmp_path / "image", processor=image_folder("vit")).kind == "image"
    load(text_folder("bert")).model.save_pretrained(tmp_path / "text")
    with pytest.raises(InputError, match="has no tokenizer files; pass processor="):
        load(tmp_path / "text")
    with pytest.raises(InputError, match="was given without a processor"):
        load(nn.Linear(2, 2))
    with pytest.raises(InputError, match="cannot read a picture for the model"):
        load(image_folder("vit"), processor=wordpiece())
    with pytest.raises(InputError, match="cannot read a text for the model"):
        load(text_folder("bert"), processor=image_processor("vit"))


def test_a_processor_that_holds_several_is_taken_apart(image_folder, text_folder):
    class Both(SimpleNamespace):
        pass

    both = Both(image_processor=image_processor("vit"), tokenizer=wordpiece())
    assert load(load(image_folder("vit")).model, processor=both).processor is both.image_processor
    assert load(load(text_folder("bert")).model, processor=both).processor is both.tokenizer


def test_unknown_task_is_corrected(image_folder):
    with pytest.raises(UnknownName, match="did you mean 'image-classification'"):
        load(image_folder("vit"), task="image-clasification")


def test_missing_transformers_is_said(monkeypatch, image_folder):
    folder = image_folder("vit")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r'pip install "regard\[hf\]"'):
        load(folder)


def test_loading_is_quiet_and_leaves_the_logs_as_they_were(image_folder, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(image_folder("vit"))
    with pytest.raises(RegardError):
        load("nobody/nothing", local_files_only=True)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_importing_models_is_light():
    code = "import regard.models, sys; print([m for m in ('transformers', 'PIL', 'tokenizers') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ---------------------------------------------------------------- labels and explain


def reader_with(labels: list[str]) -> Reader:
    return Reader(nn.Linear(1, 1), None, "image", labels)


def test_labels_by_name_synonym_and_number(image_folder):
    reader = load(image_folder("vit"))
    assert reader.label("cat, house cat") == 0
    assert reader.label("House Cat") == 0
    assert reader.label("dog") == reader.label(" DOG ") == reader.label("1") == 1
    assert reader.label("7") == 2  # a class that is called 7, not class 7
    with pytest.raises(UnknownName, match="unknown label 'dgo'; did you mean 'Dog'"):
        reader.label("dgo")
    with pytest.raises(TargetError, match="there is no class 12; the model has 3"):
        reader.label("12")


def test_ambiguous_labels_are_told_and_exact_ones_win():
    reader = reader_with(["crane", "maillot, tank suit", "maillot", "crane", "CAT", "cat"])
    with pytest.raises(TargetError, match="label 'crane' stands for several classes: 0, 3; give one"):
        reader.label("crane")
    assert reader.label("maillot") == 2
    assert (reader.label("CAT"), reader.label("cat")) == (4, 5)
    with pytest.raises(TargetError, match="several classes: 4, 5"):
        reader.label("Cat")


def test_a_model_that_names_no_classes_takes_numbers():
    assert reader_with([]).label("3") == 3
    with pytest.raises(UnknownName, match="names no classes, give a number"):
        reader_with([]).label("cat")


def test_explain_passes_on_what_the_reader_knows(text_folder, monkeypatch):
    calls = []

    def explain(model, reading, **options):
        calls.append((model, reading, options))
        return [SimpleNamespace(receipt=SimpleNamespace(notes=[])) for _ in range(2)]

    monkeypatch.setattr("regard.reader.explain_reading", explain)
    reader = load(text_folder("bert"))
    marker = object()
    found = reader.explain("a " * 40, target=["POSITIVE", 0, marker], method=["gae", "rollout"], truncate=True, seed=3)
    model, reading, options = calls[0]
    assert model is reader.model
    assert list(reading.raw) == ["input_ids"]
    assert options["target"] == [1, 0, marker]
    assert (options["method"], options["seed"]) == (["gae", "rollout"], 3)
    assert all("only its first 20 tokens were read" in e.receipt.notes[0] for e in found)
    reader.explain("great")
    assert (calls[1][2]["target"], calls[1][2]["method"]) == (None, "gae")
    per_sample = torch.tensor([1])
    reader.explain("great", per_sample)
    assert calls[2][2]["target"] is per_sample
    with pytest.raises(UnknownName):
        reader.explain("great", target="joyful")


def test_inspect_and_record_read_raw_inputs(image_folder, monkeypatch, cat):
    monkeypatch.setattr(regard, "inspect", lambda model, inputs: ("seen", list(inputs)), raising=False)
    monkeypatch.setattr(regard, "record", lambda model, inputs, target: (target, list(inputs)), raising=False)
    reader = load(image_folder("vit"))
    assert reader.inspect(cat) == ("seen", ["pixel_values"])
    assert reader.record(cat, target="dog") == (1, ["pixel_values"])
    assert repr(reader) == "Reader(ViTForImageClassification, kind='image', 3 labels)"


def test_pictures_survive_in_the_reading(image_folder, cat):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raw = load(image_folder("vit")).read(cat).raw["pixel_values"][0]
    assert isinstance(raw, Picture)
    assert raw.box == (0, 0, 40, 30)
    assert raw.pixels.dtype == torch.uint8
