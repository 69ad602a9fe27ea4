"""Token Activation Map beside its formula written out in numpy, loop by loop, on models that write about a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import regard
from regard.attribution.token_activation_map import rank_gaussian
from regard.errors import Misuse
from regard.target import Target
from support import families, writers
from support.tiny import noise

PICTURE = noise(1, 3, 16, 16, seed=5)


def filter_of(cells: Any) -> Any:
    """Window by window."""
    padded, out = np.pad(cells, 1, mode="reflect"), np.zeros_like(cells)
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            window = np.sort(padded[i : i + 3, j : j + 3].flatten())
            if window.mean() > 0:
                sigma = window.std() / window.mean()
                weights = [np.exp(-(a**2) / (2 * sigma**2)) if sigma > 0 else 1.0 for a in range(-4, 5)]
                out[i, j] = sum(w * v for w, v in zip(weights, window, strict=True)) / sum(weights)
    return out


def written_out(
    logits: Any, ids: list[int], place: int, position: int, words: list[int], side: int, smooth: bool
) -> Any:
    """The picture's map (side, side) and the words' scores by position."""
    k = int(logits[position].argmax())
    picture = [i for i, t in enumerate(ids) if t == place]
    M = np.array([max(logits[i, k], 0) for i in picture])
    top, total = np.zeros(len(picture)), 0.0
    for j in words:
        if ids[j] == k:
            continue
        u = max(logits[j, k], 0)
        top += u * np.array([max(logits[i, ids[j]], 0) for i in picture])
        total += u
    I = top / total if total > 0 else top
    alpha = (M @ I) / (I @ I) if I @ I > 0 else 0.0
    scores = np.concatenate([np.maximum(M - alpha * I, 0), [max(logits[j, k], 0) for j in words]])
    scores = (scores - scores.min()) / (scores.max() - scores.min())
    cells = scores[: len(picture)].reshape(side, side)
    return filter_of(cells) if smooth else cells, dict(zip(words, scores[len(picture) :], strict=True))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: writers.save(name, tmp_path_factory.mktemp(name)) for name in writers.SEEING}


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("name", writers.SEEING)
def test_the_map_is_the_one_written_out(folders: dict[str, Path], name: str, smooth: bool) -> None:
    reader = regard.load(folders[name])
    picture = (PICTURE[0].permute(1, 2, 0) * 40 + 128).clamp(0, 255).byte()
    raw = (picture, "the film was good")
    reading = reader.read(raw)
    given, special = reading.inputs, reading.special["input_ids"][0].tolist()
    with torch.no_grad():
        logits = reader.model(**given).logits[0].double().numpy()
    ids = given["input_ids"][0].tolist()
    position = len(ids) - 1
    words = [i for i in range(position + 1) if not special[i]]
    assert words
    found = reader.explain(raw, method="token_activation_map", filter=smooth)
    place = int(reader.processor.tokenizer.convert_tokens_to_ids("<image>"))
    side = 2 if name == "idefics3" else 4
    cells, spoken = written_out(logits, ids, place, position, words, side, smooth)
    at_patches = found.scores["pixel_values"][0].reshape(4, 4).double().numpy()
    np.testing.assert_allclose(at_patches, np.kron(cells, np.ones((4 // side, 4 // side))), atol=1e-5)
    mine = found.scores["input_ids"][0].tolist()
    for i, value in spoken.items():
        assert mine[i] == pytest.approx(value, abs=1e-5)
    assert sum(abs(v) for v in mine) == pytest.approx(sum(spoken.values()), abs=1e-4)


def test_the_filter_is_the_one_written_out() -> None:
    cells = noise(7, 5, seed=3).double().clamp(min=0)
    cells[:3, :3] = 0.25
    torch.testing.assert_close(rank_gaussian(cells), torch.from_numpy(filter_of(cells.numpy())), rtol=1e-10, atol=1e-12)
    assert float(rank_gaussian(torch.zeros(4, 4, dtype=torch.float64)).abs().max()) == 0


def test_no_gradient_is_taken(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = regard.load(folders["llava"])
    given = reader.read((torch.zeros(16, 16, 3, dtype=torch.uint8), "a film")).inputs

    def refuse(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("a gradient was taken")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    regard.explain(reader.model, given, Target.next_token(5), "token_activation_map")


@pytest.mark.parametrize("name", ["vit", "bert", "llama"])
def test_other_models_are_refused(name: str) -> None:
    case = families.CASES[name]()
    with pytest.raises(Misuse, match="token_activation_map is of models that score a token"):
        regard.explain(case.model, case.inputs, case.target, "token_activation_map")


def test_each_written_token_has_its_own_map(folders: dict[str, Path]) -> None:
    reader = regard.load(folders["llava"])
    picture = (PICTURE[0].permute(1, 2, 0) * 40 + 128).clamp(0, 255).byte()
    written = reader.explain_generation((picture, "the film was good"), 3, method="token_activation_map")
    for i, token in enumerate(written):
        own = token.scores["pixel_values"]
        assert float(own.max()) <= 1
        assert token.receipt.passes <= 2
        assert i == 0 or not torch.equal(own, written[i - 1].scores["pixel_values"])
