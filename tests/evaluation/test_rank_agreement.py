"""Agreement of two maps against literal twins: loops over pairs, and every way to break ties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from regard.evaluation.rank_agreement import METRICS, agreements, chosen, kendall, overlap, sign_disagreement, spearman

MAPS = [
    ([5.0, 3.0, 3.0, 1.0, 0.0], [2.0, 2.0, 1.0, 1.0, 4.0]),
    ([0.0, 0.0, 0.0, 1.0, 0.0], [-1.0, 2.0, 0.5, -3.0, 0.0]),
    ([1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0]),
    ([0.3, -0.2, 0.9, -0.2, 0.1], [0.3, -0.2, 0.9, -0.2, 0.1]),
    ([2.0, 2.0, 2.0, 2.0, 7.0], [1.0, 1.0, 0.0, 0.0, 0.0]),
]
each_pair = pytest.mark.parametrize(("a", "b"), MAPS)


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def tau_b(a: list[float], b: list[float]) -> float:
    agree = untied_a = untied_b = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        agree += sign(a[i] - a[j]) * sign(b[i] - b[j])
        untied_a += a[i] != a[j]
        untied_b += b[i] != b[j]
    return agree / math.sqrt(untied_a * untied_b)


def rho(a: list[float], b: list[float]) -> float:
    def ranks(x: list[float]) -> list[float]:
        return [sum(v < u for v in x) + (sum(v == u for v in x) - 1) / 2 for u in x]

    ra, rb = ranks(a), ranks(b)
    ma, mb = sum(ra) / len(ra), sum(rb) / len(rb)
    top = sum((x - ma) * (y - mb) for x, y in zip(ra, rb))
    return top / math.sqrt(sum((x - ma) ** 2 for x in ra) * sum((y - mb) ** 2 for y in rb))


def every_top(a: list[float], k: int) -> list[set[int]]:
    """The k highest, once for every order that units may stand in before they are sorted."""
    return [set(sorted(order, key=lambda i: -a[i])[:k]) for order in itertools.permutations(range(len(a)))]


@each_pair
def test_rank_correlations_are_their_definitions(a: list[float], b: list[float]) -> None:
    assert kendall(np.array(a), np.array(b)) == pytest.approx(tau_b(a, b), abs=1e-12)
    assert spearman(np.array(a), np.array(b)) == pytest.approx(rho(a, b), abs=1e-12)


@each_pair
@pytest.mark.parametrize("k", [1, 2, 3])
def test_ties_are_broken_in_every_way(a: list[float], b: list[float], k: int) -> None:
    tops, others = every_top(a, k), every_top(b, k)
    shared = np.mean([len(x & y) / k for x in tops for y in others])
    against = np.mean([sum(b[i] < 0 for i in x) / k for x in tops])
    assert overlap(np.array(a), np.array(b), k) == pytest.approx(float(shared), abs=1e-12)
    assert sign_disagreement(np.array(a), np.array(b), k) == pytest.approx(float(against), abs=1e-12)
    assert chosen(np.array(a), k).sum() == pytest.approx(k)


def test_a_constant_map_has_no_order_and_chance_in_its_top() -> None:
    flat, other = np.ones(8), np.arange(8.0)
    assert math.isnan(kendall(flat, other))
    assert math.isnan(spearman(other, flat))
    assert overlap(flat, other, 2) == pytest.approx(2 / 8)


def test_all_pairs_at_once() -> None:
    maps = np.array([[1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, 3.0, -4.0], [4.0, 3.0, 2.0, 1.0], [np.nan] * 4])
    found = agreements(maps, [False, True, False, False], 1)
    assert set(found) == set(METRICS)
    for name, values in found.items():
        assert np.isnan(values.diagonal()).all()
        assert np.isnan(values[3]).all()
        assert np.isnan(values[:, 3]).all()
        if METRICS[name].symmetric:
            np.testing.assert_array_equal(values, values.T)
    assert found["kendall"][0, 2] == -1
    assert found["kendall_of_sizes"][0, 1] == 1
    assert found["kendall"][0, 1] == pytest.approx(tau_b(maps[0].tolist(), maps[1].tolist()))
    assert found["overlap"][0, 1] == 0
    assert found["overlap_of_sizes"][0, 1] == 1
    assert found["sign_disagreement"][0, 1] == 1  # the highest of the first is the lowest of the second
    assert found["sign_disagreement"][2, 1] == 1
    assert np.isnan(found["sign_disagreement"][1, 0])  # the second is no signed map
