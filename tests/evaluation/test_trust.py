"""The judging of `benchmarks/trust.py`, on rows that are made up: it finds what is there, and nothing where nothing is."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from regard.api import trusting
from regard.explanation.causal_test import CausalTest, Outcome


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("trust")


def rows(trust: ModuleType, tells: float, sets: int = 4, each: int = 60) -> list[dict[str, Any]]:
    """Maps of which one feature says `tells` standard deviations of the truth; another says which model it is."""
    draw, out = np.random.default_rng(0), []
    for s, name in enumerate([*trust.SETS][:sets]):
        for i in range(each):
            for method in ("random", "gae"):
                right = bool(draw.random() < 0.2 + 0.2 * s)
                own = dict.fromkeys(trust.FEATURES, 0.0) | {
                    "tokens": float(s),
                    "relative_error": None if method == "random" else 0.5,
                }
                own["margin"] = tells * right + draw.normal()
                known = {"set": name, "group": f"g{i // 2}", "method": method, "right": right, "chance": 0.1}
                out.append(own | known)
    return out


def test_auroc_is_that_of_scikit_learn(trust: ModuleType) -> None:
    draw = np.random.default_rng(1)
    right, said = draw.random(80) < 0.4, draw.integers(0, 12, 80).astype(float)
    assert trust.auroc(right, said) == pytest.approx(roc_auc_score(right, said))
    assert math.isnan(trust.auroc(np.ones(5, dtype=bool), said[:5]))


def test_what_tells_is_found_and_what_tells_models_apart_is_not_taken_for_it(trust: ModuleType) -> None:
    for tells, low, high in ((2.0, 0.85, 0.97), (0.0, 0.4, 0.6)):
        maps = trust.Maps.of(rows(trust, tells))
        said = trust.left_out(maps, maps.model, trust.fitted)
        assert np.isfinite(said).all()
        assert low < trust.judged(maps, said, trust.of_model).value < high
    alone = trust.judged(maps, maps.X[:, [*trust.FEATURES].index("tokens")], trust.everywhere).value
    assert alone > 0.65
    assert trust.judged(maps, maps.X[:, [*trust.FEATURES].index("tokens")], trust.of_model).value == 0.5


def test_nobody_is_judged_by_a_fit_to_its_own(trust: ModuleType) -> None:
    maps = trust.Maps.of(rows(trust, 1.0))
    seen: list[set[str]] = []

    def fit(others: Any) -> Any:
        seen.append({*others.model.tolist()})
        return lambda own: np.full(len(own), float(bool({*own.model.tolist()} & seen[-1])))

    assert trust.left_out(maps, maps.model, fit).sum() == 0
    assert len(seen) == 4


def test_the_rule_decides(trust: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "REDRAWN", 10)
    for tells, said in ((3.0, "**ships**"), (0.5, "**does not ship**")):
        found = trust.report(trust.Maps.of(rows(trust, tells, each=24)))
        assert said in found["trust-rule"]
        assert all("nan" not in text for text in found.values())


def test_features_of_a_map(trust: ModuleType) -> None:
    top = Outcome(1.0, 3.0, 0.5, 0, 0.05, 0.2, (0.0, 1.0))
    kept = Outcome(2.0, 2.0, 1.0, 0, 0.1, 0.5, (1.0, 1.0))
    test = CausalTest("x", "token", 4, 0.1, value=4.0, probability=0.9, highest=top, kept=kept)
    found = trusting.of_map(torch.tensor([1.0, -1.0, 2.0, 0.0]), test, 0.1)
    assert found["p"] == pytest.approx(math.log10(0.05))
    assert found["drop_z"] == pytest.approx(5.0)
    assert found["drop_share"] == pytest.approx(0.75)
    assert found["fall"] == pytest.approx(0.7)
    assert found["keep_z"] == 10
    assert found["relative_error"] == pytest.approx(-1)
    assert found["entropy"] == pytest.approx(0.75)
    assert (found["top_share"], found["margin"], found["tokens"]) == (0.5, 0.5, 2)
    flat = trusting.of_map(torch.zeros(4), CausalTest("x", "token", 4, 0.1, reason="too few"), math.nan)
    assert (flat["entropy"], flat["top_share"]) == (pytest.approx(1.0), 0.25)
    assert math.isnan(flat["p"])
    assert math.isnan(flat["relative_error"])


def test_ties_at_the_top_are_drawn_and_flat_maps_agree_with_none(trust: ModuleType) -> None:
    flat = torch.zeros(4)
    assert {trust.top_of(flat, f"e{i}") for i in range(60)} == {0, 1, 2, 3}
    assert trust.top_of(torch.tensor([0.0, 2, 1]), "e") == 1
    assert trusting.alike(flat, flat) == (0, 0)
    assert trusting.alike(torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 2, 3])) == (1, pytest.approx(1))


def test_the_fit_that_ships_says_what_scikit_learn_says(trust: ModuleType) -> None:
    maps = trust.Maps.of(rows(trust, 1.0))
    kept = trust.shipped(maps)
    own = kept["fits"][""]
    fit = trusting.Fitted(own["intercept"], *(tuple(own[k]) for k in ("weights", "missing", "medians")))
    said = trust.fitted(maps)(maps)
    for i in (0, 1, 57, 200):
        evidence = dict(zip(trusting.FEATURES, maps.X[i].tolist(), strict=True))
        assert fit.probability(evidence) == pytest.approx(said[i], abs=1e-9)
    assert set(kept["fits"]) == {"", *maps.names}
    assert sum(part[2] for part in kept["curve"]) == len(maps)
