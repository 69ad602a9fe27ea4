"""External guidance by a second class: two pictures on one canvas, and the map on the first one's own tokens."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import regard
from regard import Guide, Target, zoo
from regard.editing.second_class import side_by_side
from regard.explanation.told import Told

SCENES = zoo.scenes()
BOOT = 7
"""Its class."""
SINGLE = SCENES.single.nonzero()[:, 0].tolist()


@pytest.fixture(scope="module")
def reader() -> Any:
    return regard.load("zoo/vit-scenes")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A T-shirt and an ankle boot."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, i in (("shirt.png", SINGLE[0]), ("boot.png", SINGLE[100])):
        Image.fromarray(SCENES.images[i].numpy()).save(folder / name)
    return str(folder / "shirt.png"), str(folder / "boot.png")


def told(reader: Any, two: tuple[str, str], **options: Any) -> Told:
    found: Told = reader.explain(two[0], guide=f"picture:{two[1]}", **options).told
    return found


def test_the_canvas_is_whole_patches_of_both_and_zero_elsewhere(reader: Any, two: tuple[str, str]) -> None:
    """The literal twin: both halved by Pillow's box of torch's antialiasing, 4 x 4 patches of 8 pixels each, side by side."""
    x, e = (reader.read(p).inputs["pixel_values"] for p in two)
    canvas = torch.zeros_like(x)
    for left, one in ((0, x), (32, e)):
        canvas[..., 16:48, left : left + 32] = torch.nn.functional.interpolate(
            one, (32, 32), mode="bilinear", antialias=True
        )
    found = told(reader, two)
    for target, exp in ((0, found.of_c), (BOOT, found.of_e), (Target.contrast(0, BOOT), found.difference)):
        expected: Any = regard.explain(reader.model, {"pixel_values": canvas}, target)
        torch.testing.assert_close(exp.scores["pixel_values"], expected.scores["pixel_values"])
    assert found.places == ((0, 16, 32, 48), (32, 16, 64, 48))
    assert (found.c, found.e) == ("T-shirt", "Ankle boot")


def test_the_map_is_the_first_pictures_part_of_the_canvas(reader: Any, two: tuple[str, str]) -> None:
    exp = reader.explain(two[0], guide=f"picture:{two[1]}")
    whole = exp.told.difference.scores["pixel_values"].reshape(8, 8)
    assert exp.grid["pixel_values"] == (4, 4)
    torch.testing.assert_close(exp.scores["pixel_values"].reshape(4, 4), whole[2:6, :4])
    assert exp.inputs["pixel_values"][0].name == "shirt.png"
    assert exp.on_original()[0].shape == (64, 64)
    assert exp.target == "'T-shirt' rather than 'Ankle boot'"
    notes = " ".join(exp.receipt.notes)
    for said in (
        "another picture was explained: shirt.png with boot.png",
        "shirt.png is taken for",
        "the canvas is taken for",
    ):
        assert said in notes
    assert not any("another picture" in n for n in exp.told.difference.receipt.notes)
    with pytest.raises(regard.RegardError, match=r"told\.difference"):
        exp.transfer()
    with pytest.raises(regard.RegardError, match=r"told\.difference"):
        exp.between("cls_token", "pixel_values")


def test_probabilities_are_the_models_own(reader: Any, two: tuple[str, str]) -> None:
    found = told(reader, two)
    with torch.no_grad():
        own = [reader.model(**reader.read(p).inputs).logits.softmax(-1)[0] for p in two]
    torch.testing.assert_close(found.probabilities[:2], torch.stack(own)[:, [0, BOOT]])
    assert found.predicted[:2] == tuple(reader.labels[int(p.argmax())] for p in own)


def test_signed_methods_need_no_second_contrast(reader: Any, two: tuple[str, str]) -> None:
    signed = told(reader, two, method="corrected_attention", sign="signed", correction="complete")
    assert signed.against is None
    assert signed.guided.options == {"sign": "signed", "correction": "complete"}
    plain = told(reader, two)
    assert plain.against is not None
    swapped: Told = reader.explain(two[1], guide=f"picture:{two[0]}").told
    assert not torch.equal(plain.of_c.scores["pixel_values"], swapped.of_e.scores["pixel_values"])


def test_classes_can_be_named(reader: Any, two: tuple[str, str]) -> None:
    ways = [
        {"guide": Guide.picture(two[1], target="sandal")},
        {"guide": Guide.picture(two[1], target=reader.label("Sandal"))},
        {"guide": f"picture:{two[1]}", "against": "Sandal"},
    ]
    maps = [reader.explain(two[0], target="Dress", **way) for way in ways]
    assert {m.told.e for m in maps} == {"Sandal"}
    assert {m.told.c for m in maps} == {"Dress"}
    assert all(torch.equal(m.scores["pixel_values"], maps[0].scores["pixel_values"]) for m in maps)


def test_what_was_transparent_is_noted(reader: Any, two: tuple[str, str], tmp_path: Any) -> None:
    with Image.open(two[1]) as boot:
        clear = boot.convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    notes = reader.explain(two[0], guide=f"picture:{tmp_path / 'clear.png'}").receipt.notes
    assert "less than 1 % of clear.png is transparent, and was laid over white for the model" in notes


def test_several_methods_give_a_flat_list(reader: Any, two: tuple[str, str]) -> None:
    found = reader.explain(two[0], guide=f"picture:{two[1]}", method=["gae", "rollout"])
    assert [e.method for e in found] == ["gae", "rollout"]
    assert [e.told.method for e in found] == ["gae", "rollout"]


def test_blended_into_a_region(reader: Any, two: tuple[str, str]) -> None:
    exp = reader.explain(two[0], guide=Guide.picture(two[1], within=(10, 10, 40, 50)))
    assert exp.grid["pixel_values"] == (8, 8)
    assert exp.told.places == ((0, 0, 64, 64), (8, 8, 40, 56))
    x, e = (reader.read(p).inputs["pixel_values"] for p in two)
    x = x.clone()
    small = torch.nn.functional.interpolate(e, (48, 32), mode="bilinear", antialias=True)
    x[..., 8:56, 8:40] = (x[..., 8:56, 8:40] + small) / 2
    expected: Any = regard.explain(reader.model, {"pixel_values": x}, Target.contrast(0, BOOT))
    torch.testing.assert_close(exp.scores["pixel_values"], expected.scores["pixel_values"])


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (8, 8, ((2, 0, 4, 4), (2, 4, 4, 4))),
        (7, 7, ((2, 0, 3, 3), (2, 4, 3, 3))),
        (14, 14, ((3, 0, 7, 7), (3, 7, 7, 7))),
        (2, 12, ((0, 0, 1, 6), (0, 6, 1, 6))),
        (12, 2, ((3, 0, 6, 1), (3, 1, 6, 1))),
        (1, 2, ((0, 0, 1, 1), (0, 1, 1, 1))),
    ],
)
def test_panels_do_not_meet(rows: int, columns: int, expected: Any) -> None:
    assert side_by_side(rows, columns) == expected


def test_nothing_is_left_on_the_model(reader: Any, two: tuple[str, str]) -> None:
    state = torch.get_rng_state()
    before: dict[str, Tensor] = copy.deepcopy(reader.model.state_dict())
    told(reader, two)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in reader.model.state_dict().items())
    assert all(p.grad is None for p in reader.model.parameters())
    assert not reader.model.training


def test_a_model_in_train_mode_is_not_run(two: tuple[str, str]) -> None:
    """Its running means would be changed, before anything could refuse it."""
    reader = regard.load("zoo/vit-scenes")
    runs: list[int] = []
    handle = reader.model.register_forward_hook(lambda *_: runs.append(1))
    reader.model.train()
    with pytest.raises(regard.RegardError, match="train mode"):
        told(reader, two)
    handle.remove()
    assert not runs
    assert reader.model.training


def test_it_can_be_saved_copied_and_pickled(reader: Any, two: tuple[str, str], tmp_path: Path) -> None:
    exp = reader.explain(two[0], guide=f"picture:{two[1]}")
    loaded = regard.Explanation.load(exp.save(tmp_path / "map.safetensors"))
    assert loaded.told is None
    assert torch.equal(loaded.scores["pixel_values"], exp.scores["pixel_values"])
    for again in (pickle.loads(pickle.dumps(exp)), copy.deepcopy(exp)):
        assert again.told.guided is again
        assert str(again.told) == str(exp.told)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"guide": "picture:none.png"}, "no such file"),
    ({"target": "Ankle boot"}, "nothing to tell apart"),
    ({"target": "giraffe"}, "unknown label"),
    ({"target": 99}, "no class 99"),
    ({"target": Target.logit(1)}, "by its name or number"),
    ({"target": [0, 1]}, "by its name or number"),
    ({"guide": Guide.picture("boot.png", target=3), "against": "Bag"}, "given twice"),
    ({"guide": Guide.picture("boot.png", within=(100, 100, 120, 120))}, "outside of what the model sees"),
    ({"method": "gea"}, "gae"),
    ({"threshold": 0.3}, "threshold= does not apply"),
    ({"token": 0}, "token= does not apply"),
    ({"regions": [(0, 0, 8, 8)]}, "regions= does not apply"),
    ({"truncate": True}, "truncate= does not apply"),
    ({"correction": "whole", "method": "corrected_attention"}, "correction"),
]


@pytest.mark.parametrize(("how", "said"), WRONG)
def test_misuse(reader: Any, two: tuple[str, str], how: dict[str, Any], said: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(Path(two[0]).parent)
    with pytest.raises(regard.RegardError, match=said):
        reader.explain("shirt.png", **({"guide": "picture:boot.png"} | how))


def test_other_models_say_what_they_read(two: tuple[str, str]) -> None:
    with pytest.raises(regard.RegardError, match="reads texts"):
        regard.load("zoo/bert-sentiment").explain("a fine film", guide=f"picture:{two[1]}")
    with pytest.raises(regard.RegardError, match="give them one by one"):
        regard.load("zoo/vit-scenes").explain([*two], guide=f"picture:{two[1]}")
    with pytest.raises(regard.RegardError, match="one of several classes"):
        regard.load("zoo/detr-scenes").explain(two[0], guide=f"picture:{two[1]}")


def test_a_box_with_no_inside_is_refused() -> None:
    with pytest.raises(regard.RegardError, match="left < right"):
        Guide.picture("boot.png", within=(3, 3, 3, 4))
