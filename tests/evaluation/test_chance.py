"""Better than chance: what a test that flips signs says, and that it is right as often as it claims."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from regard.api.causal_rank import mid_rank
from regard.attribution.removal.runs import subsets_of_size
from regard.evaluation import Causal, Row
from regard.evaluation.chance import LEVEL, sign_flip, surely_better
from regard.evaluation.diagnosis import standings
from regard.evaluation.statistics import holm, share_with_interval
from regard.explanation.causal_test import CausalTest, Outcome

EXAMPLES, RANDOM = 50, 9


def ranked(worth: torch.Tensor, own: torch.Tensor, drawn: torch.Tensor) -> float:
    """The rank of a choice of units among others, in a model whose answer is the sum of what its units are worth."""
    drops = tuple(float(worth[row].sum()) for row in drawn)
    change = float(worth[own].sum())
    outcome = Outcome(0.0, change, 0.0, sum(d >= change for d in drops), 1.0, random=drops)
    return mid_rank(CausalTest("x", "token", len(worth), 0.1, value=1.0, highest=outcome))


def by_chance(seed: int, count: int, units: int = 64, k: int = 7) -> list[float]:
    """Ranks of maps that are drawn: each example has units of other worth."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        worth = torch.randn(units, generator=draw, dtype=torch.float64)
        own = subsets_of_size(units, k, 1, 10_000 * seed + 2 * i)[0]
        found.append(ranked(worth, own, subsets_of_size(units, k, RANDOM, 10_000 * seed + 2 * i + 1)))
    return found


def test_ranks_of_maps_that_are_drawn_are_uniform() -> None:
    counts = np.bincount([round(9 * r) for r in by_chance(1, 1000)], minlength=10)
    assert len(counts) == 10
    expected = 100.0
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 27.9  # the 0.999 quantile of chi² with 9 degrees of freedom


def test_equal_drops_count_by_half() -> None:
    worth = torch.ones(10, dtype=torch.float64)
    own, drawn = subsets_of_size(10, 3, 1, 1)[0], subsets_of_size(10, 3, RANDOM, 2)
    assert ranked(worth, own, drawn) == 0.5
    untested = CausalTest("x", "token", 3, 0.1)
    assert math.isnan(mid_rank(untested))


def test_sign_flips_are_those_that_counting_gives() -> None:
    values = np.array([0.5, 0.3, -0.1, 0.4, 0.2, 0.45])
    flipped = [sum(s * v for s, v in zip(signs, values)) for signs in itertools.product((1, -1), repeat=6)]
    exact = sum(f >= values.sum() - 1e-12 for f in flipped) / 64
    assert sign_flip(values[:, None])[0] == pytest.approx(exact, abs=0.006)
    together = sign_flip(values[:, None], ["a", "a", "b", "b", "c", "c"])[0]
    sums = [0.8, 0.3, 0.65]
    grouped = [sum(s * v for s, v in zip(signs, sums)) for signs in itertools.product((1, -1), repeat=3)]
    assert together == pytest.approx(sum(g >= sum(sums) - 1e-12 for g in grouped) / 8, abs=0.015)
    with_gaps = np.concatenate([values, [np.nan] * 5])[:, None]
    assert sign_flip(with_gaps)[0] == pytest.approx(exact, abs=0.006)


def test_holm_is_the_textbook() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert holm(p).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


def test_one_in_twenty_runs_of_chance_is_said_to_be_better() -> None:
    draw = np.random.default_rng(3)
    runs = draw.integers(0, RANDOM + 1, (EXAMPLES, 800)) / RANDOM - 0.5
    share = float((sign_flip(runs) <= LEVEL).mean())
    assert 0.03 < share < 0.07
    sided = draw.choice([-0.5, 0.5], (EXAMPLES, 800))  # the same places in every input: all or nothing
    assert float((sign_flip(sided) <= LEVEL).mean()) < 0.07


def test_of_many_methods_by_chance_none_is_called_better() -> None:
    draw = np.random.default_rng(4)
    runs = draw.integers(0, RANDOM + 1, (EXAMPLES, 12, 40)) / RANDOM - 0.5
    false = [bool((holm(sign_flip(runs[:, :, i], seed=i)) <= LEVEL).any()) for i in range(40)]
    assert np.mean(false) <= 0.15  # 5 % are expected, 2 of 40; more than 6 come of it once in 500
    moved = [any(surely_better(runs[:, :5, i], seed=i)) for i in range(40)]
    assert np.mean(moved) <= 0.15


@pytest.mark.parametrize("always", [0.0, 0.6, 0.9])
def test_intervals_cover_the_truth(always: float) -> None:
    """Ranks of a method that is ahead of all choices so often, and else as good as chance."""
    draw = np.random.default_rng(5)
    shape = (EXAMPLES, 80)
    runs = np.where(draw.random(shape) < always, 1.0, draw.integers(0, RANDOM + 1, shape) / RANDOM)
    found = [share_with_interval(run.tolist(), i) for i, run in enumerate(runs.T)]
    truth = always + (1 - always) / 2
    assert (
        np.mean([i.low <= truth <= i.high for i in found]) >= 0.88
    )  # where 95 % are covered, less than once in 200 times
    assert np.mean([i.high - i.low for i in found]) < 0.2


def test_one_is_better_only_where_differences_are_sure() -> None:
    draw = np.random.default_rng(6)
    good = np.clip(0.9 + 0.1 * draw.standard_normal(60), 0, 1)
    values = np.stack([good, good - 0.02 * draw.standard_normal(60), 0.3 * draw.random(60)], 1)
    assert surely_better(values) == [{2}, {2}, set()]
    assert surely_better(values[:, ::-1]) == [set(), {0}, {0}]
    assert surely_better(values[:2]) == [set()] * 3  # two examples make nothing sure
    assert surely_better(values[:, :1]) == [set()]


def rows_of(values: np.ndarray, groups: int = 0) -> list[Row]:
    """Ranks of maps that are made up, (example, method); so many groups of examples."""
    return [
        Row(
            Causal(),
            f"e{i}",
            "rank",
            float(v),
            method="random",
            title=f"m{j}",
            group=f"g{i % groups}" if groups else "",
        )
        for i, line in enumerate(values)
        for j, v in enumerate(line)
    ]


def test_standings_are_corrected_for_the_number_of_methods() -> None:
    values = np.full((50, 12), 0.5)
    values[:, 0] = np.where(np.arange(50) < 32, 0.9, 0.1)  # 32 of 50 above: p is some 3 % by itself
    alone = standings(rows_of(values[:, :1]), ["m0"], {})[0]
    assert 0.01 < alone.p_value < 0.05
    assert alone.better
    among = {s.title: s for s in standings(rows_of(values), [f"m{j}" for j in range(12)], {})}
    assert among["m0"].p_value == pytest.approx(12 * alone.p_value, rel=0.01)
    assert not among["m0"].better
    assert not among["m0"].beats


def test_examples_of_one_group_count_as_one() -> None:
    values = np.ones((60, 1))
    apart, together = (standings(rows_of(values, groups), ["m0"], {"m0": 0.5})[0] for groups in (0, 6))
    assert apart.p_value < 0.001
    assert together.p_value == pytest.approx(1 / 64, abs=0.004)
    assert together.rank.low < apart.rank.low
    assert together.seconds == 0.5


def test_what_is_surely_below_chance_is_said_to_be() -> None:
    values = np.stack([np.full(30, 0.2), np.full(30, 0.9)], 1)
    first, last = standings(rows_of(values), ["m0", "m1"], {})
    assert (first.title, first.places, first.beats) == ("m1", (1, 1), {"m0"})
    assert (last.title, last.places, last.below) == ("m0", (2, 2), True)
