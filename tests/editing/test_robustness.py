"""How little rewrites a model's answers: budgets, shares, what becomes of files, what gives rewritten ones away."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import regard
from regard.editing.file_changes import CHANGES, through
from regard.editing.robustness import FEW, ClassPair, Robustness
from regard.editing.suspicion import DOUBT, NEGATIVE, NOISE, SIGNS, SMOOTHING, suspicions
from regard.errors import InputError, Misuse
from regard.report.rewriting.robustness import page, plot, table
from support.drawn import NASTY
from support.folders import image_parts
from support.tiny import strong

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def reader() -> Any:
    """A tiny random classifier of three classes."""
    config, processor, how = image_parts("vit")
    model = strong(transformers.ViTForImageClassification(config))
    return regard.load(model, processor=getattr(transformers, processor)(**how))


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8) for _ in range(6)]


@pytest.fixture(scope="module")
def found(reader: Any, pictures: list[Tensor]) -> Robustness:
    return reader.robustness(pictures, budget=24 / 255, steps=10)


def classes(reader: Any, images: list[Any]) -> Tensor:
    with torch.no_grad():
        return reader.model(**reader.read(images).inputs).logits.argmax(-1)


def test_every_picture_is_rewritten_to_every_other_class(
    reader: Any, pictures: list[Tensor], found: Robustness
) -> None:
    was = classes(reader, pictures)
    assert torch.equal(found.was, was)
    assert torch.equal(found.asked, torch.arange(3)[None] != was[:, None])
    to = (was + 1) % 3
    alone = reader.rewrite(pictures, to, budget=24 / 255, steps=10, minimal=True, maps=False)
    mine = found.smallest.gather(1, to[:, None])[:, 0]
    assert torch.equal(mine.isfinite(), alone.success)
    assert torch.allclose(mine[alone.success].double(), alone.linf[alone.success])
    assert bool(alone.success.any())


def test_shares_and_pairs_by_hand() -> None:
    nan, inf = math.nan, math.inf
    smallest = torch.tensor([[nan, 1.0, inf], [nan, 3.0, 2.0], [inf, inf, nan], [nan, 2.0, 5.0]]) / 255
    made = Robustness(["a", "b", "c", "d"], ["x", "y"], torch.tensor([0, 0, 2, 0]), smallest, 5 / 255)
    assert made.share(1 / 255) == pytest.approx(1 / 8)
    assert made.share(2 / 255) == pytest.approx(3 / 8)
    assert made.share(2 / 255, any_class=True) == pytest.approx(3 / 4)
    assert [made.share(5 / 255), made.share(5 / 255, True)] == pytest.approx([5 / 8, 3 / 4])
    size = lambda v: pytest.approx(v / 255)  # noqa: E731
    assert made.pairs() == [
        ClassPair(0, 1, 3, size(1), size(2), size(3)),
        ClassPair(0, 2, 3, size(2), size(5), inf),
        ClassPair(2, 0, 1, inf, inf, inf),
        ClassPair(2, 1, 1, inf, inf, inf),
    ]
    assert made.label(2) == "class 2"


def test_a_file_is_what_it_is_before_anything_is_done_to_it(found: Robustness) -> None:
    for kind in ("smallest", "surest"):
        first = found.files[kind][0]
        assert (first.name, first.kept, first.back, first.original) == ("the file as it is written", 1.0, 0.0, 1.0)
        assert all(f.kept + f.back + f.other == pytest.approx(1) for f in found.files[kind])
        assert 0 <= found.rounded[kind] <= 1
    assert len(found.files["smallest"]) == len(CHANGES) == 9


def test_what_a_change_of_files_does_is_counted(reader: Any, pictures: list[Tensor]) -> None:
    before, after = pictures[:3], pictures[3:]
    was, to = classes(reader, before), torch.tensor([0, 1, 2])
    rows = {f.name: f for f in through(reader, before, after, was, to)}
    images = [Image.fromarray(p.numpy()) for p in pictures]
    done: list[Any] = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=50)
        done.append(Image.open(buffer))
    new = classes(reader, done)
    row = rows["JPEG, quality 50"]
    assert row.kept == pytest.approx(float((new[3:] == to).float().mean()))
    assert row.back == pytest.approx(float((new[3:] == was).float().mean()))
    assert row.original == pytest.approx(float((new[:3] == was).float().mean()))
    half = classes(reader, [i.resize((16, 16), 2).resize((32, 32), 2) for i in images])
    assert rows["resized to a half and back"].original == pytest.approx(float((half[:3] == was).float().mean()))


def test_numbers_that_give_pictures_away_by_hand(reader: Any, pictures: list[Tensor]) -> None:
    from sklearn.metrics import roc_auc_score

    before, after = pictures[:3], pictures[3:]
    rows = {s.name: s for s in suspicions(reader, before, after, seed=2, size=2)}
    inputs = reader.read(pictures).inputs
    x = inputs["pixel_values"]
    with torch.no_grad():
        p = reader.model(x).logits.softmax(-1)
        generator, other = torch.Generator().manual_seed(2), torch.zeros(6)
        for _ in range(16):
            noisy = x + NOISE * torch.randn(3, 32, 32, generator=generator) / 0.5
            other += (reader.model(noisy).logits.argmax(-1) != p.argmax(-1)) / 16
    scores = {}
    for sign in ("signed", "absolute"):
        exp = regard.explain(reader.model, inputs, None, "corrected_attention", sign=sign)
        scores[sign] = torch.cat([*exp.scores.values()], 1)
    s, a = scores["signed"], scores["absolute"]
    by_hand = {
        DOUBT: 1 - p.amax(-1),
        SMOOTHING: other,
        NEGATIVE: s.clamp(max=0).abs().sum(1) / s.abs().sum(1),
        SIGNS: 1 - s.abs().sum(1) / a.sum(1),
    }
    assert {*rows} == {*by_hand}
    for name, values in by_hand.items():
        assert rows[name].before == pytest.approx(float(values[:3].mean()), abs=1e-5), name
        assert rows[name].after == pytest.approx(float(values[3:].mean()), abs=1e-5), name
        assert rows[name].auroc == pytest.approx(
            roc_auc_score([0, 0, 0, 1, 1, 1], values.double().round(decimals=6).numpy())
        )
        assert 0 <= rows[name].low <= rows[name].high <= 1
    assert float(by_hand[SIGNS].min()) >= 0


def test_the_interval_of_an_area_is_that_of_drawn_pictures() -> None:
    """Drawn one by one, by scikit-learn's area; ties among them."""
    from sklearn.metrics import roc_auc_score

    from regard.editing.suspicion import _told

    before, after = torch.tensor([0.1, 0.3, 0.3, 0.6, 0.9]), torch.tensor([0.3, 0.2, 0.8, 0.9, 0.7])
    random, areas = np.random.default_rng(7), []
    for _ in range(1000):
        rows = torch.from_numpy(random.integers(0, 5, 5))
        areas.append(roc_auc_score([0] * 5 + [1] * 5, torch.cat([before[rows], after[rows]]).numpy()))
    found = _told("doubt", before, after, 1)
    assert found.auroc == pytest.approx(roc_auc_score([0] * 5 + [1] * 5, torch.cat([before, after]).numpy()))
    assert [found.low, found.high] == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=0.05)


def test_of_many_classes_the_second_likeliest_is_asked_for(
    reader: Any, pictures: list[Tensor], monkeypatch: Any
) -> None:
    from regard.editing import robustness as module

    monkeypatch.setattr(module, "MOST", 2)
    made = reader.robustness(pictures[:3], budget=4 / 255, steps=2)
    with torch.no_grad():
        second = reader.model(**reader.read(pictures[:3]).inputs).logits.topk(2).indices[:, 1]
    assert torch.equal(made.asked.nonzero()[:, 1], second)


def test_classes_that_are_named_and_progress(reader: Any, pictures: list[Tensor]) -> None:
    said: list[tuple[str, int, int]] = []
    made = reader.robustness(pictures, ["0"], 2 / 255, steps=2, told=lambda *a: said.append(a))
    assert bool((made.asked == (made.was != 0)[:, None] * torch.tensor([True, False, False])).all())
    assert said[0] == ("rewriting", int((made.was != 0).sum()), int((made.was != 0).sum()) + 24)
    few = reader.robustness(pictures[:1], budget=1 / 255, steps=1)
    assert few.notes == [FEW] or few.examples >= 2


def test_refusals(reader: Any, pictures: list[Tensor]) -> None:
    with pytest.raises(InputError, match="no pictures"):
        reader.robustness([])
    with pytest.raises(Misuse, match="less than one level"):
        reader.robustness(pictures, budget=0.5 / 255)
    for budget in ("a", float("nan"), [1], True):
        with pytest.raises(Misuse, match="such as 2/255"):
            reader.robustness(pictures, budget=budget)


def test_one_class_by_name_or_number_and_the_usual_budget(reader: Any, pictures: list[Tensor]) -> None:
    named = reader.labels[2]
    made = [reader.robustness(pictures[:1], to, None, steps=1) for to in (named, 2, [named])]
    assert {m.budget for m in made} == {4 / 255}
    assert all(torch.equal(m.asked, made[0].asked) for m in made)


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_escapes_names_and_says_what_was_found(found: Robustness) -> None:
    import dataclasses

    nasty = dataclasses.replace(found, names=[NASTY] * 6, labels=[NASTY, "=1+1", "x"], notes=[NASTY])
    shown = page(nasty)
    assert NASTY not in shown
    assert "<script" not in shown
    assert "How little rewrites 6 pictures" in shown
    assert "Responsible use" in shown
    assert "AUROC" in shown
    rows = list(csv.reader(io.StringIO(table(nasty))))
    assert rows[0] == ["picture", "was", "to", "smallest_budget_of_255"]
    assert len(rows) == 1 + int(found.asked.sum())
    assert not any(cell.startswith("=") for row in rows for cell in row)


def test_of_many_classes_the_easiest_pairs_are_listed(tmp_path: Path) -> None:
    smallest = torch.full((3, 40), torch.nan)
    smallest[:, 1:21] = torch.linspace(1, 20, 20) / 255
    made = Robustness(["a", "b", "c"], [f"label {i}" for i in range(40)], torch.tensor([0, 0, 30]), smallest, 20 / 255)
    shown = page(made)
    assert "the pairs that take least" in shown
    assert shown.index("<td>label 1</td>") < shown.index("<td>label 20</td>")
    for name in ("a.png", "b.png"):
        plot(made, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert np.asarray(Image.open(tmp_path / "a.png")).size
