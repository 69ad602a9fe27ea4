"""Class rewriting of raw pictures: the file that is written has the new class when it is read again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import regard
from regard import zoo
from regard.editing.pictures import RESAMPLED, canvas_of
from regard.errors import InputError, ModelError, UnknownName
from support.folders import image_parts, picture
from support.tiny import strong

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scenes() -> Any:
    return regard.load("zoo/vit-scenes")


def tiny(name: str) -> Any:
    """A tiny random classifier with the processor of its kind."""
    config, processor, how = image_parts(name)
    model = strong(getattr(transformers, type(config).__name__.replace("Config", "ForImageClassification"))(config))
    return regard.load(model, processor=getattr(transformers, processor)(**how))


def read_class(reader: Any, file: Any) -> int:
    """What the model makes of a file, by its own forward."""
    with torch.no_grad():
        return int(reader.model(**reader.read(file).inputs).logits.argmax())


def test_what_was_transparent_is_noted(tmp_path: Any) -> None:
    reader, clear = tiny("vit"), picture(32, 32).convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 9))
    clear.save(tmp_path / "clear.png")
    found = reader.rewrite(tmp_path / "clear.png", 0, budget=0.9, maps=False)
    assert "100 % of clear.png is transparent, and was laid over white for the model" in found.notes


@pytest.mark.parametrize("name", ["vit", "deit", "beit", "dinov2", "swin"])
@pytest.mark.parametrize("size", [(40, 30), (32, 32), (23, 61)])
def test_the_file_has_the_new_class(name: str, size: tuple[int, int], tmp_path: Any) -> None:
    """Also where the processor resizes and crops: the file is then larger than what the model sees."""
    reader, raw = tiny(name), picture(*size)
    to = (read_class(reader, raw) + 1) % 3
    found = reader.rewrite(raw, to, budget=0.9, maps=False)
    assert RESAMPLED not in found.notes
    path = tmp_path / "rewritten.png"
    path.write_bytes(found.png())
    assert bool(found.success)
    assert read_class(reader, path) == to
    before, after = (t[0].int() for t in (found.before, found.after))
    assert torch.equal(torch.from_numpy(np.array(Image.open(path))), found.after[0])
    assert int((after - before).abs().max()) == round(float(found.linf) * 255)
    assert min(before.shape[:2]) >= 32
    if name == "vit":
        assert tuple(before.shape) == (32, 32, 3)


def test_what_the_crop_leaves_out_does_not_change() -> None:
    reader = tiny("dinov2")
    canvas = canvas_of(reader, torch.from_numpy(np.array(picture(90, 60))), "p")
    assert canvas.exact
    assert tuple(canvas.pixels.shape) == (36, 54, 3)
    found = reader.rewrite(picture(90, 60), (read_class(reader, picture(90, 60)) + 1) % 3, budget=0.3, maps=False)
    moved = (found.after[0] != found.before[0]).any(-1)
    rows, columns = moved.nonzero(as_tuple=True)
    assert canvas.top <= int(rows.min()) <= int(rows.max()) < canvas.top + 32
    assert canvas.left <= int(columns.min()) <= int(columns.max()) < canvas.left + 32


def test_success_is_that_of_the_file_where_the_processor_resamples() -> None:
    def blurring(image: Image.Image) -> Tensor:
        small = np.array(image.resize((20, 20)).resize((32, 32)), dtype=np.float32)
        return torch.from_numpy(small).permute(2, 0, 1) / 127.5 - 1

    model = strong(transformers.AutoModelForImageClassification.from_config(image_parts("vit")[0]))
    reader = regard.load(model, processor=blurring)
    raws = [picture(*s) for s in ((32, 32), (40, 30), (60, 20), (33, 47))]
    to = torch.tensor([(read_class(reader, r) + 1) % 3 for r in raws])
    found = reader.rewrite(raws, to, budget=6 / 255, maps=False)
    assert RESAMPLED in found.notes
    for i in range(len(raws)):
        again = read_class(reader, Image.fromarray(found.after[i].numpy()))
        assert bool(found.success[i]) == (again == int(to[i]))
        assert int(found.predicted[i]) == again


def test_labels_masks_and_the_picture_outside_the_mask(scenes: Any, tmp_path: Any) -> None:
    mask = np.zeros((192, 256), dtype=np.uint8)
    mask[30:150, 60:170] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    found = scenes.rewrite(
        zoo.demo_scene(), "dress", within=tmp_path / "mask.png", budget=16 / 255, maps=False, steps=12
    )
    assert found.label(found.to[0]) == "Dress"
    assert bool(found.success)
    moved = (found.after[0] != found.before[0]).any(-1)
    y, x = torch.arange(64) * 3 + 1, torch.arange(64) * 4 + 2
    inside = torch.from_numpy(mask != 0)[y][:, x]
    assert bool(moved.any())
    assert not bool((moved & ~inside).any())
    for way in (mask, torch.from_numpy(mask != 0), Image.fromarray(mask)):
        again = scenes.rewrite(zoo.demo_scene(), "dress", within=way, budget="16/255", maps=False, steps=12)
        assert torch.equal(again.after[0], found.after[0])


def test_keep_makes_a_picture_of_two_classes(scenes: Any) -> None:
    found = scenes.rewrite(zoo.demo_scene(), "Dress", keep="Trouser", maps=False)
    assert bool(found.success)
    again = scenes.read(Image.fromarray(found.after[0].numpy())).inputs
    with torch.no_grad():
        order = scenes.model(**again).logits[0].topk(2).indices
    assert [scenes.labels[i] for i in order] == ["Dress", "Trouser"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_success_holds_for_its_file(scenes: Any, norm: str, tmp_path: Any) -> None:
    raws = list(zoo.scenes().images[:8])
    to = torch.tensor([(read_class(scenes, r) + 1 + i % 7) % 8 for i, r in enumerate(raws)])
    found = scenes.rewrite(raws, to, norm=norm, budget=4 / 255 if norm == "linf" else 1.0, steps=15, maps=False)
    assert bool(found.success.any())
    for i in range(len(raws)):
        path = tmp_path / f"{i}.png"
        path.write_bytes(found.png(i))
        assert bool(found.success[i]) == (read_class(scenes, path) == int(to[i]))


def test_a_difference_is_drawn_as_large_as_it_can_be(scenes: Any) -> None:
    found = scenes.rewrite(zoo.demo_scene(), "Bag", budget=2 / 255, maps=False)
    drawn, factor = found.difference()
    assert factor == pytest.approx(127 / 2)
    delta = (found.after[0].int() - found.before[0].int()).float()
    meant = 128 + factor * delta
    assert float((drawn - meant).abs().max()) <= 0.5 + 1e-3  # half a level lies between two
    whole = delta.abs() == 2
    assert bool(whole.any())
    assert torch.equal(drawn[whole].float(), meant[whole])


def test_what_is_saved_is_loaded_with_its_pictures(scenes: Any, tmp_path: Any) -> None:
    found = scenes.rewrite(zoo.demo_scene(), "Bag", steps=3)
    again = regard.Rewriting.load(found.save(tmp_path / "r.safetensors"))
    assert again.png() == found.png()
    assert again.labels == scenes.labels
    assert again.names == ["demo_scene.png"]
    assert str(again) == str(found)


def test_what_cannot_be_rewritten_is_refused(scenes: Any) -> None:
    with pytest.raises(ModelError, match="reads texts"):
        regard.load("zoo/bert-sentiment").rewrite("a fine film", "negative")
    with pytest.raises(ModelError, match="regions of a picture"):
        regard.load("zoo/lxmert-scenes").rewrite(zoo.demo_scene(), 0)
    with pytest.raises(ModelError, match="one prediction a picture"):
        regard.load("zoo/detr-scenes").rewrite(zoo.demo_scene(), 0)
    with pytest.raises(UnknownName, match="did you mean 'Dress'"):
        scenes.rewrite(zoo.demo_scene(), "Dres")
    with pytest.raises(InputError, match="no such picture"):
        scenes.rewrite("none.png", "Dress")
    with pytest.raises(InputError, match="empty list"):
        scenes.rewrite([], "Dress")
    with pytest.raises(InputError, match="256 x 192; give a mask"):
        scenes.rewrite(zoo.demo_scene(), "Dress", within=np.ones((64, 64)))
    with pytest.raises(InputError, match="leaves no pixel"):
        scenes.rewrite(zoo.demo_scene(), "Dress", within=np.zeros((192, 256)))
    with pytest.raises(InputError, match="2 masks for 1 picture"):
        scenes.rewrite(zoo.demo_scene(), "Dress", within=[None, None])


def test_a_processor_that_cannot_be_undone_is_refused() -> None:
    model = strong(transformers.AutoModelForImageClassification.from_config(image_parts("vit")[0]))
    flat = regard.load(model, processor=lambda image: torch.zeros(3, 32, 32))
    with pytest.raises(ModelError, match="cannot be undone"):
        flat.rewrite(picture(), 1)
