"""Saved explanations that are damaged, hostile, or of a newer version."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import regard
from regard.errors import InputError
from regard.explanation.explanation import FORMAT
from regard.reader import Reader
from support.folders import image_parts, picture, transformers

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def reader() -> Reader:
    config, processor, settings = image_parts("vit")
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    return regard.load(model, processor=getattr(transformers, processor)(**settings))


@pytest.fixture
def saved(reader, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("album.png").mkdir()
    picture().save("cat.png")
    return reader.explain("cat.png").save("good.regard")


def rewritten(
    path: Path, change: Callable[[dict], object] = lambda _: None, tensors: Callable[[dict], object] = lambda _: None
) -> Path:
    """The same file with another header, or other tensors."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as f:
        header = json.loads(f.metadata()["json"])
        held = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    new = change(header)
    tensors(held)
    save_file(held, "bad.regard", {"format": FORMAT, "json": new if isinstance(new, str) else json.dumps(header)})
    return Path("bad.regard")


def cut(path: Path) -> Path:
    Path("bad.regard").write_bytes(path.read_bytes()[:-100])
    return Path("bad.regard")


def junk(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        Path("bad.regard").write_bytes(content)
        return Path("bad.regard")

    return make


def changed(**fields: object) -> Callable[[Path], Path]:
    return lambda path: rewritten(path, lambda header: header.update(fields))


def without(*keys: str) -> Callable[[Path], Path]:
    def drop(header: dict) -> None:
        for key in keys[:-1]:
            header = header[key]
        del header[keys[-1]]

    return lambda path: rewritten(path, drop)


def foreign(path: Path) -> Path:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, "bad.regard")
    return Path("bad.regard")


DAMAGED: Sequence[tuple[str, Callable[[Path], Path]]] = [
    ("missing", lambda path: Path("none.regard")),
    ("folder", lambda path: Path("album.png")),
    ("empty", junk(b"")),
    ("junk", junk(b"junk" * 100)),
    ("pickle", junk(pickle.dumps({"scores": 1}))),
    ("cut", cut),
    ("foreign", foreign),
    ("no json", lambda path: rewritten(path, lambda header: "{not json")),
    ("json of another kind", lambda path: rewritten(path, lambda header: "[1, 2]")),
    ("no receipt", without("receipt")),
    ("no field of the receipt", without("receipt", "target_value")),
    ("no object", lambda path: rewritten(path, lambda h: "null")),
    ("deep json", lambda path: rewritten(path, lambda h: "[" * 100_000)),
    ("a number of many digits", lambda path: rewritten(path, lambda h: '{"a": ' + "9" * 10_000 + "}")),
    ("a grid that is not of its tokens", changed(grid={"pixel_values": [10**9, 10**9]})),
    ("a grid of a stream that is not there", changed(grid={"ghost": [4, 4]})),
    ("labels that are no words", changed(labels=[1, 2, 3])),
    ("labels that are one word", changed(labels="abc")),
    ("a name of another kind", changed(method=None)),
    ("signed in words", changed(signed="no")),
    ("options of another kind", changed(options=[])),
    (
        "a receipt of other samples",
        lambda path: rewritten(path, lambda h: h["receipt"].update(target_value=[1.0, 2.0])),
    ),
    (
        "a target that is no number",
        lambda path: rewritten(path, lambda h: h["receipt"].update(target_value=[math.nan])),
    ),
    ("notes of another kind", lambda path: rewritten(path, lambda h: h["receipt"].update(notes="abc"))),
    ("versions of another kind", lambda path: rewritten(path, lambda h: h["receipt"].update(versions=[1]))),
    (
        "a box without extent",
        lambda path: rewritten(path, lambda h: h["inputs"]["pixel_values"][0].update(box=[0, 0, 0, 9])),
    ),
    (
        "an endless box",
        lambda path: rewritten(path, lambda h: h["inputs"]["pixel_values"][0].update(box=[0, 0, 9, math.inf])),
    ),
    (
        "scores that are no numbers",
        lambda path: rewritten(path, tensors=lambda t: t["scores/pixel_values"].fill_(math.nan)),
    ),
    (
        "scores of other axes",
        lambda path: rewritten(path, tensors=lambda t: t.update({"scores/pixel_values": torch.ones(4)})),
    ),
    (
        "whole-number scores",
        lambda path: rewritten(path, tensors=lambda t: t.update({"scores/pixel_values": torch.ones(1, 16).int()})),
    ),
    (
        "pixels of other axes",
        lambda path: rewritten(path, tensors=lambda t: t.update({"pixels/pixel_values/0": torch.ones(4, 4).byte()})),
    ),
    (
        "pixels that are no bytes",
        lambda path: rewritten(path, tensors=lambda t: t.update({"pixels/pixel_values/0": torch.ones(4, 4, 3)})),
    ),
    (
        "an empty picture",
        lambda path: rewritten(path, tensors=lambda t: t.update({"pixels/pixel_values/0": torch.ones(0, 4, 3).byte()})),
    ),
    (
        "a prediction of other classes",
        lambda path: rewritten(path, tensors=lambda t: t.update({"prediction/scores": torch.ones(1, 1)})),
    ),
    ("rows of tokens that are not there", changed(between={"pixel_values": [10**9]})),
    ("rows that are not there", changed(between={"pixel_values": [0]})),
    ("unknown stream", changed(streams=["pixel_values", "ghost"])),
    ("grid of another kind", changed(grid=None)),
    ("grid of one number", changed(grid={"pixel_values": [4]})),
    ("inputs of another kind", changed(inputs={"pixel_values": [3]})),
    ("inputs without box", changed(inputs={"pixel_values": [{"name": "x"}]})),
    ("scores of words", lambda path: rewritten(path, lambda h: h["receipt"].update(target_value=["x"]))),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGED, ids=[n for n, _ in DAMAGED])
def test_damaged_explanations(name, damage, saved):
    assert regard.Explanation.load(saved).method == "gae"
    path = damage(saved)
    with pytest.raises(InputError) as refused:
        regard.Explanation.load(path)
    assert path.name in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_what_a_newer_version_wrote_is_let_pass_and_told(saved):
    def newer(header: dict) -> None:
        header["aspect"] = {"deep": [1]}
        header["receipt"]["carbon"] = 3
        header["inputs"]["pixel_values"][0]["depth"] = 8

    found = regard.Explanation.load(rewritten(saved, newer, lambda t: t.update({"aspect/map": torch.ones(2)})))
    (note,) = (n for n in found.receipt.notes if "newer version" in n)
    assert note == (
        "the file was saved by a newer version of Regard, and what only that knows was left out: 'depth', 'carbon', 'aspect'"
    )
    found.receipt.notes.remove(note)
    assert found == regard.Explanation.load(saved)


def test_what_no_file_can_set_stays_as_it_is(saved):
    found = regard.Explanation.load(
        rewritten(saved, lambda h: h.update(told={"x": 1}, _heads=3, late_test=4, likely=5))
    )
    assert found.told is None
    assert found == regard.Explanation.load(saved) or found.receipt.notes


def test_the_same_explanation_is_the_same_file(reader, saved):
    exp = reader.explain("cat.png")
    assert len({exp.save(f"{n}.regard").read_bytes() for n in range(8)}) == 1
    assert regard.Explanation.load("0.regard").save("again.regard").read_bytes() == Path("0.regard").read_bytes()
