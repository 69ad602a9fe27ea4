"""Interactions of patches and words: the numbers against brute force over all subsets, the runs against runs one by one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regard
from regard.attribution.removal.banzhaf import Crossed, Masks, errors, fitted, masks, unseen_r2
from regard.attribution.removal.interaction import product_of
from regard.attribution.removal.surrogate import every_subset
from regard.errors import Misuse
from regard.recording import record
from regard.recording.edits import LeaveOut
from regard.target import Target
from support import families
from support.tiny import noise
from support.tiny_clip import clip

torch.set_num_threads(1)

WORDS = torch.tensor([[1, 5, 9, 22, 7, 39]])


def small() -> Any:
    """Four patches."""
    torch.manual_seed(0)
    return clip(image_size=16)


def given(pictures: int = 1) -> dict[str, Tensor]:
    return {"input_ids": WORDS, "pixel_values": noise(pictures, 3, 16, 16)}


def similarity(out: Any) -> Tensor:
    return out.logits_per_image[:, 0]


def random_masks(count: int, units: int, seed: int) -> Masks:
    g = torch.Generator().manual_seed(seed)
    kept = (torch.rand(count, units, generator=g) < 0.5).double()
    return Masks(kept, torch.rand(count, generator=g).double() + 0.5, False)


# -- numbers ------------------------------------------------------------------------------------------------------------


def test_the_fit_is_weighted_least_squares_over_all_crossings() -> None:
    """Beside scikit-learn on the design written out."""
    from sklearn.linear_model import LinearRegression

    z, w = random_masks(30, 4, 1), random_masks(20, 3, 2)
    y = torch.randn(30, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows, weights = [], []
    for i, j in itertools.product(range(30), range(20)):
        a, b = z.kept[i].numpy(), w.kept[j].numpy()
        rows.append(np.concatenate([a, b, np.outer(a, b).ravel()]))
        weights.append(float(z.weights[i] * w.weights[j]))
    known = LinearRegression().fit(np.stack(rows), y.flatten().numpy(), sample_weight=np.array(weights))
    found = fitted(z, w, y)
    mine = torch.cat([found.first, found.second, found.pairs.flatten()])
    np.testing.assert_allclose(mine.numpy(), known.coef_, atol=1e-10)
    assert found.base == pytest.approx(known.intercept_, abs=1e-10)
    np.testing.assert_allclose(found.at(z.kept, w.kept).flatten().numpy(), known.predict(np.stack(rows)), atol=1e-10)


@pytest.mark.parametrize("p", [0.3, 0.5, 0.8])
def test_over_all_subsets_they_are_the_weighted_banzhaf_values_of_any_function(p: float) -> None:
    """E[y with i − y without], and the same of pairs, every other unit there with chance p: a function with no structure."""
    a, b = 3, 4
    z, w = masks(a, 100, p, 0, "first"), masks(b, 100, p, 0, "second")
    assert z.exact
    assert w.exact
    y = torch.randn(2**a, 2**b, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    table = {
        (tuple(s), tuple(t)): y[i, j] for i, s in enumerate(z.kept.tolist()) for j, t in enumerate(w.kept.tolist())
    }

    def chance(others: tuple[float, ...]) -> float:
        return float(np.prod([p if o else 1 - p for o in others]))

    def put(s: tuple[float, ...], i: int, value: float) -> tuple[float, ...]:
        return (*s[:i], value, *s[i:])

    found = fitted(z, w, y)
    first, second = found.values(p)
    for i in range(a):
        total = 0.0
        for s, t in itertools.product(
            itertools.product((0.0, 1.0), repeat=a - 1), itertools.product((0.0, 1.0), repeat=b)
        ):
            total += chance(s + t) * float(table[put(s, i, 1.0), t] - table[put(s, i, 0.0), t])
        assert float(first[i]) == pytest.approx(total, abs=1e-9)
    for i, j in itertools.product(range(a), range(b)):
        total = 0.0
        for s, t in itertools.product(
            itertools.product((0.0, 1.0), repeat=a - 1), itertools.product((0.0, 1.0), repeat=b - 1)
        ):
            four = [table[put(s, i, u), put(t, j, v)] * (1 if u == v else -1) for u in (0.0, 1.0) for v in (0.0, 1.0)]
            total += chance(s + t) * float(sum(four))
        assert float(found.pairs[i, j]) == pytest.approx(total, abs=1e-9)
    assert len(second) == b


def test_standard_errors_are_how_far_other_draws_move_the_values() -> None:
    """A bilinear function with noise of each copy's own (what patches do among one another is such noise)."""
    g = torch.Generator().manual_seed(5)
    first, second, pairs = (torch.randn(*n, generator=g).double() for n in ((5,), (3,), (5, 3)))
    truth = Crossed(0.3, first, second, pairs)
    moved, told = [], []
    for seed in range(30):
        z, w = masks(5, 31, 0.5, seed, "first"), masks(3, 100, 0.5, seed, "second")
        assert not z.exact
        own = torch.randn(31, 1, generator=g).double()
        y = truth.at(z.kept, w.kept) + own
        moved.append(fitted(z, w, y).values(0.5)[0] - truth.values(0.5)[0])
        told.append(errors(z, w, y, 0.5, seed)[0])
    ratio = torch.stack(moved).square().mean(0) / torch.stack(told).square().mean(0)
    assert 0.6 < float(ratio.mean()) < 1.5


def test_r2_is_of_masks_that_were_not_fitted_to() -> None:
    z, w = random_masks(60, 4, 1), random_masks(40, 3, 2)
    truth = Crossed(0.3, torch.arange(4).double(), torch.arange(3).double(), torch.ones(4, 3).double())
    assert unseen_r2(z, w, truth.at(z.kept, w.kept)) == pytest.approx(1.0)
    noise_alone = torch.randn(60, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert unseen_r2(z, w, noise_alone) < 0.05


def test_too_few_masks_are_refused() -> None:
    with pytest.raises(Misuse, match="3 masks do not tell 5 units apart"):
        fitted(random_masks(3, 5, 0), random_masks(10, 2, 1), torch.zeros(3, 10).double())


def test_draws_are_what_the_seed_says() -> None:
    one, same, other = (masks(8, 50, 0.3, s, "first").kept for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float(masks(20, 2000, 0.3, 0, "first").kept.mean()) == pytest.approx(0.3, abs=0.01)


# -- runs ---------------------------------------------------------------------------------------------------------------


def pair_by_pair(model: Any, inputs: dict[str, Tensor]) -> Crossed:
    """Every subset of four patches and four words, left out of attention: the pairs of one subset of words side by side."""
    sixteen = {name: t.expand(16, *t.shape[1:]) for name, t in inputs.items()}
    recording = record(model, sixteen)
    streams = [recording.stream(n) for n in ("pixel_values", "input_ids")]
    subsets = every_subset(4)
    y = torch.zeros(16, 16, dtype=torch.float64)
    for j, b in enumerate(subsets):
        hidden = torch.zeros(16, recording.rows, dtype=torch.bool)
        hidden[:, streams[0].rows] = subsets
        hidden[:, streams[1].first + 1 : streams[1].first + 5] = b
        y[:, j] = record(model, sixteen, edits=[LeaveOut(hidden)]).output.logits_per_image.diagonal().detach()
    side = Masks((~subsets).double(), torch.full((16,), 1 / 16).double(), True)
    return fitted(side, side, y)


def test_on_a_model_they_are_runs_pair_by_pair() -> None:
    model, inputs = small(), given()
    expected = pair_by_pair(model, inputs)
    exp = regard.explain(model, inputs, similarity, "interaction")
    first, second = expected.values(0.5)
    torch.testing.assert_close(exp.scores["pixel_values"][0].double(), first, rtol=0, atol=1e-5)
    torch.testing.assert_close(exp.scores["input_ids"][0, 1:5].double(), second, rtol=0, atol=1e-5)
    pairs = exp.between("input_ids", "pixel_values")
    torch.testing.assert_close(pairs[0, 1:5].T.double(), expected.pairs, rtol=0, atol=1e-5)
    torch.testing.assert_close(exp.between("pixel_values", "input_ids"), pairs.transpose(1, 2), rtol=0, atol=0)
    assert float(pairs[0, [0, 5]].abs().max()) == 0  # special tokens are in no pair
    surrogate = exp.receipt.surrogate
    assert surrogate.exact.tolist() == [True]
    assert surrogate.units.tolist() == [8]
    assert surrogate.runs.tolist() == [32]  # each encoded once


def test_the_receipt_is_measured_against_nothing_left() -> None:
    """y without any patch and any word, not on an input of zeros; and every run is counted."""
    model, inputs = small(), given()
    recording = record(model, inputs)
    hidden = torch.zeros(1, recording.rows, dtype=torch.bool)
    hidden[0, recording.stream("pixel_values").rows] = True
    first = recording.stream("input_ids").first
    hidden[0, first + 1 : first + 5] = True
    expected = similarity(record(model, inputs, edits=[LeaveOut(hidden)]).output)
    runs: list[int] = []
    with_hook = model.register_forward_hook(lambda *_: runs.append(1))
    receipt = regard.explain(model, inputs, similarity, "interaction").receipt
    with_hook.remove()
    assert receipt.baseline == "left out of attention"
    assert receipt.passes == len(runs) + 1  # and the gradient
    torch.testing.assert_close(receipt.baseline_value, expected.detach(), rtol=0, atol=1e-5)


class Alone(nn.Module):
    """A model that gives the similarity alone, as OpenAI's does."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = small()
        self.config = self.clip.config  # which ids are special tokens

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        out = self.clip(pixel_values=pixel_values, input_ids=input_ids)
        return out.logits_per_image, out.logits_per_text


def test_without_embeddings_texts_are_encoded_again() -> None:
    whole = regard.explain(small(), given(), similarity, "interaction")
    alone = regard.explain(Alone().eval(), given(), lambda out: out[0][:, 0], "interaction", memory_budget=100_000)
    torch.testing.assert_close(alone.scores, whole.scores, rtol=0, atol=1e-5)
    few = regard.explain(small(), given(), similarity, "interaction", memory_budget=100_000)
    torch.testing.assert_close(few.scores, whole.scores, rtol=0, atol=1e-5)
    assert whole.receipt.surrogate.runs < few.receipt.surrogate.runs < alone.receipt.surrogate.runs


def test_a_picture_among_texts() -> None:
    """The class picks the text."""
    other = torch.tensor([[1, 30, 12, 8, 3, 39]])
    picture = noise(1, 3, 16, 16)
    alone = regard.explain(small(), {"input_ids": other, "pixel_values": picture}, similarity, "interaction")
    both = {"input_ids": torch.cat([WORDS, other]), "pixel_values": picture}
    among = regard.explain(small(), both, lambda out: out.logits_per_image[:, 1], "interaction")
    torch.testing.assert_close(among.scores["pixel_values"], alone.scores["pixel_values"], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        among.between("input_ids", "pixel_values"), alone.between("input_ids", "pixel_values"), rtol=0, atol=1e-5
    )


def test_the_cosine_itself_is_the_logit_over_its_scale() -> None:
    """It is no tensor of the output; the reader asks for it of a pair."""
    model = small()
    logit = regard.explain(model, given(), similarity, "interaction")
    cosine = regard.explain(model, given(), Target.similarity(), "interaction")
    scale = float(model.logit_scale.detach().exp())
    for stream, scores in cosine.scores.items():
        torch.testing.assert_close(scores * scale, logit.scores[stream], rtol=1e-4, atol=1e-5 * scale)
    pairs = (e.between("input_ids", "pixel_values") for e in (cosine, logit))
    a, b = pairs
    torch.testing.assert_close(a * scale, b, rtol=1e-3, atol=1e-4 * scale)
    assert cosine.receipt.passes == logit.receipt.passes


def test_it_is_saved_with_its_pairs(tmp_path: Path) -> None:
    exp = regard.explain(small(), given(), similarity, "interaction")
    exp.save(tmp_path / "map")
    again = regard.Explanation.load(tmp_path / "map")
    torch.testing.assert_close(again.between("input_ids", "pixel_values"), exp.between("input_ids", "pixel_values"))


def test_what_cannot_be_crossed_is_refused() -> None:
    case = families.CASES["vilt"]()
    with pytest.raises(Misuse, match="encodes the two apart"):
        regard.explain(case.model, case.inputs, case.target, "interaction")
    with pytest.raises(Misuse, match="that similarity as the target"):
        regard.explain(small(), given(), lambda out: out.logits_per_image[:, 0] ** 2, "interaction")
    with pytest.raises(Misuse, match="between 0 and 1"):
        regard.explain(small(), given(), similarity, "interaction", p=1.0)


def test_a_product_is_found_by_its_numbers() -> None:
    g = torch.Generator().manual_seed(0)
    E, F = torch.randn(5, 3, generator=g), torch.randn(4, 3, generator=g)
    y = (7 * E @ F.T - 2).double()
    found = product_of([E, F, y.float()], y)
    assert found is not None
    assert (found.first, found.second) == (0, 1)
    torch.testing.assert_close(found.at(E.double(), F.double()), y, rtol=0, atol=1e-5)
    assert product_of([E, F], y.square()) is None
    assert product_of([E, F], torch.ones(5, 4).double()) is None
