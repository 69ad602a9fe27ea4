"""Occlusion, LIME and KernelSHAP against loops over subsets, in double precision, and what holds for all of them."""

from __future__ import annotations

import itertools
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regard
from regard import Baseline, Target
from regard.attribution.removal import surrogate
from regard.attribution.removal.lime import check_positive
from regard.errors import Misuse, UnknownName
from regard.explanation.receipt import Receipt
from support import families
from support.tiny import noise

METHODS = ("occlusion", "lime", "shap_kernel")


class Linear(nn.Module):
    """y_c = Σ over tokens of ⟨W_ct, x_t⟩ + b_c: a function of its tokens one by one."""

    def __init__(self, tokens: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.W = nn.Parameter(torch.randn(3, tokens, 2, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.W * x[:, None]).sum((2, 3)) + 0.5


def cube(units: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """All subsets, and a random y of each: no structure at all."""
    taken = surrogate.every_subset(units)
    return taken, torch.randn(len(taken), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- formulas -----------------------------------------------------------------------------------------------------------


def test_of_a_linear_model_all_are_its_coefficients() -> None:
    model, x = Linear().eval(), noise(2, 5, 2).double()
    expected = (model.W[1] * x).sum(-1).detach()
    for method in METHODS:
        found = regard.explain(model, x, 1, method, baseline="zero").scores["input"]
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6, msg=method)
    drawn = regard.explain(model, x, 1, "lime", baseline="zero", samples=20, alpha=0)
    torch.testing.assert_close(drawn.scores["input"].double(), expected, rtol=0, atol=1e-6)
    assert float(drawn.receipt.surrogate.r2.min()) == pytest.approx(1)
    assert float(drawn.receipt.surrogate.standard_errors["input"].max()) < 1e-6


@pytest.mark.parametrize("units", [1, 2, 3, 6, 10])
def test_kernel_shap_over_all_subsets_is_the_shapley_value(units: int) -> None:
    taken, y = cube(units)
    value = {tuple(t.tolist()): float(v) for t, v in zip(taken, y, strict=True)}
    expected = []
    for j in range(units):
        total = 0.0
        for others in itertools.product([False, True], repeat=units - 1):  # True: taken away
            without = (*others[:j], True, *others[j:])
            with_it = (*others[:j], False, *others[j:])
            size = units - 1 - sum(others)
            weight = math.factorial(size) * math.factorial(units - size - 1) / math.factorial(units)
            total += weight * (value[with_it] - value[without])
        expected.append(total)
    some, weights = taken[1:-1], surrogate.shap_kernel_weights(taken[1:-1])
    fit = surrogate.shapley((~some).double(), y[1:-1], weights, (float(y[0]), float(y[-1])), None)
    assert fit.exact
    torch.testing.assert_close(fit.coefficients, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)
    assert float(fit.coefficients.sum()) == pytest.approx(float(y[0] - y[-1]), abs=1e-12)


@pytest.mark.parametrize("units", [2, 3, 4, 7, 10])
def test_the_infinite_bandwidth_limit_is_least_squares_over_all_subsets(units: int) -> None:
    taken, y = cube(units)
    rows, aims = [], []
    for t, v in zip(taken.tolist(), y.tolist(), strict=True):
        if sum(t):
            root = math.sqrt(1 / (units * math.comb(units, sum(t))))
            rows.append([root, *(root * (not u) for u in t)])
            aims.append(root * v)
    expected = np.linalg.lstsq(np.array(rows), np.array(aims), rcond=None)[0][1:]
    np.testing.assert_allclose(surrogate.infinite_bandwidth(taken, y).numpy(), expected, rtol=0, atol=1e-8)
    kept = (~taken).double()
    fit = surrogate.ridge(
        kept, y, surrogate.lime_chances(taken) * surrogate.lime_kernel(kept, math.inf), 0.0, drawn=False
    )
    np.testing.assert_allclose(fit.coefficients.numpy(), expected, rtol=0, atol=1e-8)


def test_drawn_lime_is_the_ridge_of_the_package_written_out() -> None:
    _, y = cube(6)
    drawn = surrogate.lime_draws(6, 60, seed=3)
    at = (drawn * 2 ** torch.arange(5, -1, -1)).sum(1)
    kept = (~drawn).double()
    fit = surrogate.ridge(kept, y[at], surrogate.lime_kernel(kept, 0.25), 1.0, drawn=True)
    A, b = np.zeros((7, 7)), np.zeros(7)
    for t, v in zip(drawn.tolist(), y[at].tolist(), strict=True):
        z = np.array([1.0, *(not u for u in t)], dtype=float)
        ones = np.ones(6)
        length = np.linalg.norm(z[1:])
        distance = 100 * (1 - (z[1:] @ ones / (length * np.linalg.norm(ones)) if length else 0.0))
        w = math.sqrt(math.exp(-(distance**2) / 25**2))
        A += w * np.outer(z, z)
        b += w * z * v
    A[1:, 1:] += np.eye(6)
    solution = np.linalg.solve(A, b)
    np.testing.assert_allclose(fit.coefficients.numpy(), solution[1:], rtol=0, atol=1e-10)
    assert fit.intercept == pytest.approx(solution[0], abs=1e-10)


def test_draws_are_those_that_are_said() -> None:
    lime = surrogate.lime_draws(4, 40_001, seed=0)
    assert not lime[0].any()
    sizes = torch.bincount(lime[1:].sum(1), minlength=5) / 40_000
    assert sizes.tolist() == pytest.approx([0, 0.25, 0.25, 0.25, 0.25], abs=0.01)
    shap = surrogate.shap_draws(5, 40_000, seed=0)
    weight = torch.tensor([0, *((4 / (s * (5 - s))) for s in range(1, 5)), 0])
    found = torch.bincount(shap.sum(1), minlength=6) / 40_000
    assert found.tolist() == pytest.approx((weight / weight.sum()).tolist(), abs=0.01)
    assert bool((shap[::2] ^ shap[1::2]).all())


@pytest.mark.parametrize("method", ["lime", "shap"])
def test_standard_errors_are_how_far_other_draws_move_the_coefficients(method: str) -> None:
    """Mean of ((β̂ − β)/error)² over 150 draws of 200 copies: 1 where errors are right."""
    taken, y = cube(8)
    weigh = 2 ** torch.arange(7, -1, -1)
    ends = (float(y[0]), float(y[-1]))
    if method == "lime":
        limit = surrogate.infinite_bandwidth(taken, y)
    else:
        weights = surrogate.shap_kernel_weights(taken[1:-1])
        limit = surrogate.shapley((~taken[1:-1]).double(), y[1:-1], weights, ends, None).coefficients
    squares = []
    for seed in range(150):
        some = (surrogate.lime_draws if method == "lime" else surrogate.shap_draws)(8, 200, seed)
        kept, values, ones = (~some).double(), y[(some * weigh).sum(1)], torch.ones(len(some)).double()
        if method == "lime":
            fit = surrogate.ridge(kept, values, ones, 0.0, drawn=True)
        else:
            fit = surrogate.shapley(kept, values, ones, ends, torch.arange(len(some)) // 2)
        squares.append(((fit.coefficients - limit) / fit.errors) ** 2)
    assert 0.75 < float(torch.stack(squares).mean()) < 1.25


# -- on models ----------------------------------------------------------------------------------------------------------


def literal(case: families.Case, sample: int, units: list[int]) -> dict[tuple[int, ...], float]:
    """y of one text with each subset of some tokens under the mask."""
    out = {}
    for size in range(len(units) + 1):
        for some in itertools.combinations(range(len(units)), size):
            inputs = {k: v[sample : sample + 1].clone() for k, v in case.inputs.items()}
            inputs["attention_mask"][0, [units[u] for u in some]] = 0
            with torch.no_grad():
                out[some] = float(case.target(case.model(**inputs)))
    return out


def test_on_a_text_they_are_their_formulas() -> None:
    case = families.CASES["bert"]()
    units = [1, 2, 3, 4, 5]
    y = literal(case, 0, units)
    everything = tuple(range(5))
    scores = {m: regard.explain(case.model, case.inputs, case.target, m).scores["input_ids"][0] for m in METHODS}
    assert all(float(s[0]) == 0 for s in scores.values())  # the position that is read
    drops = [y[()] - y[(u,)] for u in range(5)]
    torch.testing.assert_close(scores["occlusion"][units], torch.tensor(drops), rtol=0, atol=2e-6)
    shapley = [
        sum(
            math.factorial(len(kept)) * math.factorial(4 - len(kept)) / 120
            * (y[tuple(v for v in everything if v not in (*kept, u))] - y[tuple(v for v in everything if v not in kept)])
            for size in range(5)
            for kept in itertools.combinations([v for v in everything if v != u], size)
        )
        for u in range(5)
    ]  # fmt: skip
    torch.testing.assert_close(scores["shap_kernel"][units], torch.tensor(shapley), rtol=0, atol=2e-6)
    rows, aims = [], []
    for some, value in y.items():
        if some:
            distance = 1 - math.sqrt((5 - len(some)) / 5)
            root = math.sqrt(math.exp(-(distance**2) / (2 * 0.25**2)) / (5 * math.comb(5, len(some))))
            rows.append([root, *(root * (u not in some) for u in range(5))])
            aims.append(root * value)
    lime = np.linalg.lstsq(np.array(rows), np.array(aims), rcond=None)[0][1:]
    torch.testing.assert_close(scores["lime"][units].double(), torch.from_numpy(lime), rtol=0, atol=1e-5)


def test_drawn_lime_goes_to_its_limit_within_its_errors() -> None:
    case = families.CASES["lxmert"]()
    limit = regard.explain(case.model, case.inputs, case.target, "lime", bandwidth=math.inf)
    assert limit.receipt.surrogate.exact.all()
    for samples, seed in ((60, 0), (200, 1)):
        drawn = regard.explain(
            case.model, case.inputs, case.target, "lime", bandwidth=math.inf, samples=samples, alpha=0, seed=seed
        )
        own = drawn.receipt.surrogate
        assert not own.exact[0]
        errors = torch.cat([own.standard_errors[k][0] for k in limit.scores])
        off = torch.cat([(drawn.scores[k] - limit.scores[k])[0] for k in limit.scores])
        there = errors > 0
        assert int(there.sum()) == 8
        assert 0.2 < float(((off[there] / errors[there]) ** 2).mean()) < 3


def test_windows_slide_over_the_grid() -> None:
    case = families.CASES["vit"]()
    x = case.inputs["pixel_values"][:1]
    found = regard.explain(
        case.model, {"pixel_values": x}, case.target, "occlusion", baseline=Baseline.zero(), window=3, stride=1
    ).scores["pixel_values"]
    total, covered = torch.zeros(4, 4), torch.zeros(4, 4)
    with torch.no_grad():
        whole = float(case.target(case.model(x)))
        for row, column in itertools.product(range(2), range(2)):
            painted = x.clone()
            painted[..., 4 * row : 4 * row + 12, 4 * column : 4 * column + 12] = 0
            total[row : row + 3, column : column + 3] += whole - float(case.target(case.model(painted)))
            covered[row : row + 3, column : column + 3] += 1
    torch.testing.assert_close(found[0].view(4, 4), total / covered, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_targets_share_the_runs_of_the_model(method: str) -> None:
    case = families.CASES["bert"]()
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    with case.model.register_forward_hook(counted):
        alone = [regard.explain(case.model, case.inputs, Target.logit(c), method) for c in (0, 2)]
        apart, count = count, 0
        together: Any = regard.explain(case.model, case.inputs, [Target.logit(0), Target.logit(2)], method)
    assert count < apart - 2
    for one, both in zip(alone, together, strict=True):
        torch.testing.assert_close(both.scores["input_ids"], one.scores["input_ids"], rtol=0, atol=1e-6)
        assert both.receipt.passes == one.receipt.passes


def test_two_threads_give_what_one_does() -> None:
    case = families.CASES["bert"]()
    expected = regard.explain(case.model, case.inputs, case.target, "lime").scores["input_ids"]
    found: list[Tensor] = []

    def work() -> None:
        found.append(regard.explain(case.model, case.inputs, case.target, "lime").scores["input_ids"])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(f, expected) for f in found)
    assert len(found) == 2


def test_a_stream_that_the_baseline_does_not_name_stays() -> None:
    case = families.CASES["lxmert"]()
    found = regard.explain(case.model, case.inputs, case.target, "shap_kernel", baseline={"visual_feats": "mean"})
    assert found.receipt.baseline == "visual_feats: mean"
    assert float(found.scores["input_ids"].abs().max()) == 0
    assert float(found.scores["visual_feats"].abs().min()) > 0
    assert found.receipt.attribution_error is not None
    assert float(found.receipt.attribution_error.max()) < 1e-5


def test_equal_ids_are_one_unit_where_words_are_counted_in_a_bag() -> None:
    case = families.CASES["bert"]()
    inputs = {k: v[:1].clone() for k, v in case.inputs.items()}
    inputs["input_ids"][0, 4] = inputs["input_ids"][0, 1]
    found = regard.explain(case.model, inputs, case.target, "lime")
    assert found.receipt.surrogate.units.tolist() == [4]
    assert float(found.scores["input_ids"][0, 4]) == float(found.scores["input_ids"][0, 1])
    assert regard.explain(case.model, inputs, case.target, "lime", bow=False).receipt.surrogate.units.tolist() == [5]


def test_what_attention_cannot_leave_out_is_filled_and_said() -> None:
    case = families.CASES["swin"]()
    found = regard.explain(case.model, case.inputs, case.target, "occlusion", window=4, stride=4)
    assert found.receipt.baseline == "zero"
    assert "would still reach the target" in " ".join(found.receipt.notes)


def test_the_surrogate_is_on_the_receipt_and_kept(tmp_path: Path) -> None:
    case = families.CASES["vit"]()
    exp = regard.explain(case.model, case.inputs, case.target, "lime", samples=64)
    own = exp.receipt.surrogate
    assert own.runs.tolist() == [64, 64]
    assert own.units.tolist() == [16, 16]
    assert bool(((own.r2 > 0) & (own.r2 < 1)).all())
    errors = own.standard_errors["pixel_values"]
    assert errors.shape == (2, 16)
    assert float(errors.min()) > 0
    back = regard.Explanation.load(exp.save(tmp_path / "a.safetensors")).receipt
    torch.testing.assert_close(back.surrogate.standard_errors["pixel_values"], errors)
    assert torch.equal(back.surrogate.exact, own.exact)
    assert Receipt.from_dict(back.as_dict()).surrogate.runs.tolist() == [64, 64]
    assert torch.equal(exp[1].receipt.surrogate.standard_errors["pixel_values"], errors[1:])
    assert regard.explain(case.model, case.inputs, case.target, "occlusion").receipt.surrogate is None
    few = regard.explain(case.model, case.inputs, case.target, "lime", samples=12).receipt.surrogate
    assert bool(few.standard_errors["pixel_values"].isnan().all())


# -- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("occlusion", {"window": 0}, "window is a whole number from 1 to 100000, not 0"),
        ("occlusion", {"unit": "word", "window": 2}, "counted in tokens"),
        ("lime", {"samples": 0}, "samples is a whole number from 1 to 100000"),
        ("lime", {"bandwidth": 0}, "bandwidth is a positive number, not 0"),
        ("lime", {"alpha": -1}, "alpha is a positive number or 0"),
        ("shap_kernel", {"samples": True}, "samples is a whole number"),
        ("shap_kernel", {"baseline": "zero:local"}, "no local form"),
        ("lime", {"site": "block[0]"}, "cannot be given to method 'lime'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(method: str, options: dict[str, Any], words: str) -> None:
    case = families.CASES["bert"]()
    if "site" in options:
        options = {"site": regard.Site.block(0)}
    with pytest.raises(Misuse, match=words):
        regard.explain(case.model, case.inputs, case.target, method, **options)


def test_words_for_numbers_are_refused() -> None:
    with pytest.raises(Misuse, match="bandwidth is a positive number, not 'wide'"):
        check_positive("bandwidth", "wide")
    check_positive("bandwidth", math.inf)


def test_unknown_units_are_refused_with_those_there_are() -> None:
    case = families.CASES["bert"]()
    with pytest.raises(UnknownName, match="token"):
        regard.explain(case.model, case.inputs, case.target, "lime", unit="tokens")


def test_an_input_of_too_many_units_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval()
    x = noise(1, 1, 150, 150)
    with pytest.raises(Misuse, match=r"22500 units.*window=8 and stride=8"):
        regard.explain(model, x, 0, "occlusion")
    found = regard.explain(model, x, 0, "occlusion", window=50, stride=50)
    assert found.receipt.passes < 20


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.linear_model", None)
    case = families.CASES["bert"]()
    with pytest.raises(Misuse, match=r"pip install 'regard\[eval\]'"):
        regard.explain(case.model, case.inputs, case.target, "lime")
    regard.explain(case.model, case.inputs, case.target, "occlusion")
