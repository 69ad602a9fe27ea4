"""exp.trust: the fit that is bundled, what it is asked, and what it says where it has not been."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

import regard
from regard import Target, zoo
from regard.api import trusting
from regard.api.trusting import FEATURES, Fitted, calibration
from regard.errors import Misuse
from regard.explanation.rank_correlation import ranked
from regard.explanation.trust import LIMITS, Trust


@pytest.fixture(scope="module")
def sentiment() -> Any:
    return regard.load("zoo/bert-sentiment")


SAID = "The acting is wonderful, but the plot is of a kind that I have seen before."


def test_a_known_answer_is_trusted_and_noise_is_not(sentiment: Any) -> None:
    good, bad = (sentiment.explain(SAID, method=m).trust for m in ("gae", "random"))
    assert isinstance(good, Trust)
    assert good.probability > 0.8 > 0.2 > bad.probability
    assert good.low <= good.probability <= good.high
    assert (good.stream, good.token) == ("input_ids", 4)
    assert set(good.evidence) == {*FEATURES}
    assert good.notes == ()
    assert "were right; it was fitted to small models" in str(good)


def test_it_is_found_once_and_goes_where_the_map_goes(sentiment: Any, tmp_path: Path) -> None:
    exp = sentiment.explain(SAID)
    exp.receipt.measure()
    passes, tests = exp.receipt.passes, list(exp.receipt.causal)
    first = exp.trust
    assert exp.trust is first
    assert (exp.receipt.passes, exp.receipt.causal) == (passes, tests)
    assert pickle.loads(pickle.dumps(exp)).trust == first
    assert copy.deepcopy(exp).trust == first
    assert first.sentence in exp.to_html(tmp_path / "page.html").read_text("utf-8").replace("\N{NO-BREAK SPACE}", " ")
    with pytest.raises(Misuse, match=r"trust asks the model, which this explanation comes without .* explain again"):
        _ = regard.Explanation.load(exp.save(tmp_path / "x.safetensors")).trust


def test_of_a_batch_each_has_its_own() -> None:
    reader, scenes = regard.load("zoo/vit-scenes"), zoo.scenes()
    whole = reader.explain(list(scenes.images[:3]), method="gradient")
    one = reader.explain(list(scenes.images[:3]), method="gradient")[1]
    assert [t.sample for t in whole.trust] == [0, 1, 2]
    assert one.trust.evidence == whole.trust[1].evidence
    assert one.trust.sample == whole[1].trust.sample == 0
    assert whole[1].trust.probability == whole.trust[1].probability


def test_a_model_is_left_as_it_was(sentiment: Any) -> None:
    embeddings = sentiment.model.get_input_embeddings()
    before = {k: v.clone() for k, v in sentiment.model.state_dict().items()}
    _ = sentiment.explain("It is a wonderful and touching film.").trust
    assert not embeddings._forward_hooks
    assert all(torch.equal(v, before[k]) for k, v in sentiment.model.state_dict().items())


def test_what_it_has_not_seen_is_said(sentiment: Any) -> None:
    exp = sentiment.explain(SAID, method="gim")
    assert exp.trust.notes == ("it has seen no map of gim",)
    known = calibration()
    inside: dict[str, float] = {name: (low + high) / 2 for name, (low, high) in known.seen.items()}
    assert [*known.notes(inside, sentiment.explain(SAID, method="gae"))] == []
    outside = inside | {"tokens": math.log2(196), "p": math.nan}
    said = [*known.notes(outside, sentiment.explain(SAID, method="gae"))]
    assert said[0] == "there is no causal test here"
    assert said[1].startswith("the number of tokens is 196, and it has seen ")


def test_what_cannot_be_asked_again_is_refused() -> None:
    reader = regard.load("zoo/vit-scenes")
    inputs = reader.read(zoo.scenes().images[0].numpy()).inputs
    target = Target.of(lambda output: output.logits.sum(1), label="sum")
    exp: Any = regard.explain(reader.model, inputs, target, "gradient")
    with pytest.raises(Misuse, match="trust cannot be judged here"):
        _ = exp.trust


def test_the_bundled_fit_says_where_it_comes_from() -> None:
    known = calibration()
    assert set(known.without) == set(known.provenance["maps"]) == set(known.provenance["auroc_of_the_model_left_out"])
    judged = [*known.provenance["auroc_of_the_model_left_out"].values()]
    assert np.mean(judged) >= 0.8
    assert (sum(v < 0.8 for v in judged), len(judged)) == (2, 8)
    assert "two of eight" in LIMITS
    assert known.curve[0][0] == 0
    assert known.curve[-1][1] == 1
    for p in (0.0, 0.1, 0.55, 1.0):
        low, high, _ = known.observed(p)
        assert low <= p <= high


def test_what_is_missing_has_a_weight_of_its_own() -> None:
    zeros = (0.0,) * (len(FEATURES) - 1)
    fit = Fitted(0.5, (2.0, *zeros), (-1.0, *zeros), (0.25, *zeros))
    given = dict.fromkeys(FEATURES, 0.0)
    assert fit.probability(given | {"p": 1.0}) == pytest.approx(1 / (1 + math.exp(-2.5)))
    assert fit.probability(given | {"p": math.nan}) == pytest.approx(1 / (1 + math.exp(-(0.5 - 1 + 0.5))))
    assert fit.probability(given | {"p": 1e9}) == pytest.approx(1)


def test_ranks_are_those_of_scipy() -> None:
    a = torch.tensor([3.0, 1, 1, 2, 3, 3])
    assert (ranked(a) + 1).tolist() == scipy.stats.rankdata(a).tolist()
    b = torch.randn(6)
    assert trusting.alike(a, b)[1] == pytest.approx(scipy.stats.spearmanr(a, b).statistic)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
def test_noise_is_put_on_the_input_that_is_meant(kind: str) -> None:
    a, b, new = torch.zeros(2), torch.ones(2), torch.full((2,), 5.0)
    if kind == "tensor":
        assert trusting.replaced(a, {"x": a}, "x", new) is new
    elif kind == "tuple":
        assert trusting.replaced((a, b), {"input_0": a, "input_1": b}, "input_1", new) == (a, new)
        with pytest.raises(Misuse, match="as a dict"):
            trusting.replaced((a, None, b), {"input_0": a, "input_2": b}, "input_2", new)
    else:
        assert trusting.replaced({"x": a, "y": b}, {"x": a, "y": b}, "y", new) == {"x": a, "y": new}
