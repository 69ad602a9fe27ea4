"""Each closed form is what it claims to be: autograd, least squares over all perturbations, loops that read like the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import regard
from regard.errors import InputError, Misuse
from regard.theory import (
    alpha_avg,
    alpha_max,
    analytic_limit,
    exact_limit,
    gradient,
    input_x_gradient,
    paper_limit,
    sampled,
    seven,
    shown,
    units,
)
from regard.theory.lime import perturbations, probabilities

from .conftest import random_classifier, text


def ids_of(model, words) -> Tensor:
    return model.read(words)["input_ids"][0]


def by_least_squares(y: Tensor, kept: Tensor, w: Tensor) -> Tensor:
    """β of a weighted linear model with an intercept."""
    X = torch.cat([torch.ones(len(kept), 1), kept], 1).double()
    return torch.linalg.solve(X.T @ (w[:, None] * X), X.T @ (w * y))[1:]


@pytest.mark.parametrize(("heads", "keys", "values"), [(1, 4, 4), (3, 5, 7), (4, 2, 9)])
@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_autograd_s_at_every_token(seed, heads, keys, values):
    model = random_classifier(seed, heads, keys, values)
    ids = ids_of(model, text(seed, 9))
    e = model.embed(ids[None]).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model.classify(e).sum(), [e])
    found = gradient(model, ids)
    assert (found - expected[0]).abs().max() < 1e-10
    assert expected[0, 0].norm() > 1e-3, "[CLS] has a gradient to be right about"


def test_without_its_correction_cls_would_be_wrong():
    model = random_classifier(0)
    ids = ids_of(model, text(0, 9))
    W_q = model.layer.query.weight.detach().clone()
    with_correction = gradient(model, ids)[0]
    model.layer.query.weight.data.zero_()  # q = 0: attention is uniform, and asking changes nothing
    uniform = alpha_avg(model, ids)
    assert (uniform - 1 / len(ids)).abs().max() < 1e-12
    model.layer.query.weight.data.copy_(W_q)
    e = model.embed(ids[None]).detach()
    asked = e[:, :1].clone().requires_grad_()
    f = _asked_by(model, asked, e)
    (through_the_query,) = torch.autograd.grad(f, [asked])
    as_key_alone = e.clone().requires_grad_()
    (rest,) = torch.autograd.grad(_asked_by(model, e[:, :1], as_key_alone), [as_key_alone])
    assert (with_correction - rest[0, 0] - through_the_query[0, 0]).abs().max() < 1e-10
    assert through_the_query.norm() > 1e-3


def _asked_by(model, asked: Tensor, e: Tensor) -> Tensor:
    """f with a query of its own."""
    layer = model.layer
    q, k, v = (layer._split(of) for of in (layer.query(asked), layer.key(e), layer.value(e)))
    read = (q @ k.mT / layer.root).softmax(-1) @ v
    return model.output(read.transpose(1, 2).flatten(1)).sum() / model.heads


@pytest.mark.parametrize("seed", range(3))
def test_what_is_shown_is_the_text_with_unknown_words(seed):
    model = random_classifier(seed)
    words = text(seed, 5)
    ids = ids_of(model, words)
    of = units(model, ids)
    assert of.words == words[:5]
    kept = perturbations(5)
    slow = []
    for row in kept:
        without = ids.clone()
        for t in range(1, len(ids)):
            if not row[of.words.index(words[t - 1])]:
                without[t] = 1
        slow.append(float(model(without[None]).detach()))
    assert (shown(model, ids, of)(kept) - torch.tensor(slow, dtype=torch.float64)).abs().max() < 1e-12


@pytest.mark.parametrize("d", range(2, 11))
def test_the_exact_limit_is_least_squares_over_all_perturbations_of_any_f(d):
    kept = perturbations(d)
    y = torch.randn(len(kept), dtype=torch.float64, generator=torch.Generator().manual_seed(d))
    w = probabilities(kept)
    assert w.sum() == pytest.approx(1, abs=1e-12)
    assert [float(w[(~kept).sum(1) == s].sum()) for s in range(1, d + 1)] == pytest.approx([1 / d] * d)
    assert (exact_limit(lambda _: y, d) - by_least_squares(y, kept, w)).abs().max() < 1e-8


@pytest.mark.parametrize("d", [2, 3, 6, 10, 12])
@pytest.mark.parametrize("std", [0.1, 0.6])
def test_the_limit_as_an_integral(d, std):
    model = random_classifier(d, std=std)
    ids = ids_of(model, text(d, d))
    of = units(model, ids)
    expected = exact_limit(shown(model, ids, of), d)
    assert expected.abs().max() > 1e-5
    assert (analytic_limit(model, ids, of) - expected).abs().max() < 1e-8 * max(1.0, float(expected.abs().max()))


def test_a_text_of_many_words_has_its_limit_too():
    model = random_classifier(1, std=0.3)
    ids = ids_of(model, text(1, 28, again=10))
    of = units(model, ids)
    limit = analytic_limit(model, ids, of)
    beta, error = sampled(shown(model, ids, of), 28, samples=20_000, bandwidth=math.inf)
    assert float(((beta - limit) / error).pow(2).mean()) < 2
    assert np.corrcoef(beta, limit)[0, 1] > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_sampled_lime_converges_within_its_own_error(seed):
    model = random_classifier(seed)
    ids = ids_of(model, text(seed, 8))
    of = units(model, ids)
    f, limit = shown(model, ids, of), analytic_limit(model, ids, of)
    far, near = (sampled(f, 8, samples=n, bandwidth=math.inf, seed=seed) for n in (500, 50_000))
    assert 0.1 < float(((near[0] - limit) / near[1]).pow(2).mean()) < 3
    assert (near[0] - limit).norm() < 0.4 * (far[0] - limit).norm()
    assert float((far[1] / near[1]).mean()) == pytest.approx(10, rel=0.25)


def test_of_a_sum_over_words_lime_finds_the_summands_whatever_the_weights():
    c = torch.arange(6, dtype=torch.float64) - 2.5
    f = lambda kept: kept.double() @ c + 1  # noqa: E731
    for beta in (
        exact_limit(f, 6),
        sampled(f, 6, samples=200, bandwidth=math.inf)[0],
        sampled(f, 6, samples=200)[0],
    ):
        assert (beta - c).abs().max() < 1e-9


def test_the_sampled_weights_are_those_of_the_kernel():
    """Refit by hand what was drawn, with exp(−δ² / 2ν²), δ the cosine distance to the whole text."""
    drawn = []

    def f(kept):
        drawn.append(kept)
        return torch.randn(len(kept), dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    beta, _ = sampled(f, 5, samples=300, bandwidth=0.25, seed=3)
    (kept,) = drawn
    assert kept[0].all()
    assert not kept[1:].all(1).any()
    ones = np.ones(5)
    cosine = [
        (z @ ones) / (np.linalg.norm(z) * np.linalg.norm(ones)) if z.any() else 0.0 for z in kept.double().numpy()
    ]
    w = torch.tensor([math.exp(-((1 - c) ** 2) / (2 * 0.25**2)) for c in cosine], dtype=torch.float64)
    assert (beta - by_least_squares(f(kept), kept, w)).abs().max() < 1e-9


def test_the_paper_s_limit_read_aloud():
    model = random_classifier(2)
    words = text(2, 7)
    ids = ids_of(model, words)
    of = units(model, ids)
    K, d_att = model.heads, 5
    layer = model.layer
    W_q, W_k, W_v = (x.weight.detach().reshape(K, -1, 12) for x in (layer.query, layer.key, layer.value))
    W_l = model.output.weight.detach().reshape(K, -1)
    e = model.embed(ids[None])[0].detach()
    unk = model.embed(torch.ones_like(ids)[None])[0].detach()
    beta = torch.zeros(7, dtype=torch.float64)
    for i in range(K):
        q = W_q[i] @ e[0]
        g = [math.exp(q @ W_k[i] @ x / math.sqrt(d_att)) for x in e]
        h = [g[0], *(math.exp(q @ W_k[i] @ x / math.sqrt(d_att)) for x in unk[1:])]
        for t, word in enumerate(words, 1):
            says = g[t] / sum(g) * W_v[i] @ e[t] - h[t] / sum(h) * W_v[i] @ unk[t]
            beta[of.words.index(word)] += 3 / 2 / K * W_l[i] @ says
    assert (paper_limit(model, ids, of) - beta).abs().max() < 1e-12


@pytest.mark.parametrize(("std", "least", "scale"), [(0.1, 0.98, 1.5), (0.3, 0.9, 1.5), (0.6, 0.6, 1.3)])
def test_the_paper_s_limit_tracks_the_exact_one_but_not_in_scale(std, least, scale):
    """Nearly uniform attention, and ever less so."""
    correlations, scales = [], []
    for seed in range(8):
        model = random_classifier(seed, heads=4, keys=8, values=8, std=std)
        ids = ids_of(model, text(seed, 20))
        of = units(model, ids)
        exact, paper = analytic_limit(model, ids, of), paper_limit(model, ids, of)
        correlations.append(np.corrcoef(exact, paper)[0, 1])
        scales.append(float(exact @ paper / (exact @ exact)))
    assert np.median(correlations) > least
    assert np.median(scales) == pytest.approx(scale, abs=0.15)


def test_regard_s_own_methods_agree_with_the_closed_forms():
    model = random_classifier(0)
    inputs = model.read(text(0, 9))
    ids = inputs["input_ids"][0]
    g = gradient(model, ids)
    expected = {
        "raw_attention": alpha_avg(model, ids),
        "alpha_max": alpha_max(model, ids),
        "gradient": g.norm(dim=-1),
    }
    found = regard.explain(model, inputs, method=[*expected])
    for of in found:
        assert of.receipt.faithful < 1e-12
        assert (of.scores["input_ids"][0] - expected[of.method]).abs().max() < 1e-6, of.method
    with_positions = regard.explain(model, inputs, method="input_x_gradient", site=regard.Site.embeddings())
    assert (with_positions.scores["input_ids"][0] - input_x_gradient(model, ids)).abs().max() < 1e-6
    words_alone = regard.explain(model, inputs, method="input_x_gradient").scores["input_ids"][0]
    assert (words_alone - (model.embedding(ids).detach() * g).sum(-1)).abs().max() < 1e-6
    for reduce, of in (("mean", g.mean(-1)), ("l1", g.abs().sum(-1))):
        scores = regard.explain(model, inputs, method="gradient", reduce=reduce).scores["input_ids"][0]
        assert (scores - of).abs().max() < 1e-5, reduce


def test_batch_is_single():
    model = random_classifier(0)
    texts = [text(0, 9), text(1, 4)]
    inputs = model.read(*texts)
    for i, words in enumerate(texts):
        alone = model.read(words)
        assert (model(**inputs)[i] - model(**alone)[0]).abs().max() < 1e-12
    both = regard.explain(model, inputs, method="alpha_max").scores["input_ids"]
    assert (both[1, : 1 + len(texts[1])] - alpha_max(model, ids_of(model, texts[1]))).abs().max() < 1e-6
    assert not both[1, 1 + len(texts[1]) :].any()


def test_seven_of_a_single_word_and_of_unknown_ones():
    model = random_classifier(0)
    alone = seven(model, ids_of(model, ["w1"]))
    assert list(alone) == ["α-avg", "α-max", "LIME", "G-avg", "G-l1", "G-l2", "G×I"]
    assert alone["LIME"].tolist() == [0.0]
    words = ["strange", "w1", "stranger"]
    scores = seven(model, ids_of(model, words), words)["LIME"]
    assert scores[[0, 2]].abs().max() < 1e-12, "[UNK] is shown in place of [UNK]"
    assert abs(scores[1]) > 1e-3


def test_misuse():
    model = random_classifier(0)
    ids = ids_of(model, ["w1"])
    with pytest.raises(Misuse, match="all perturbations of 2 to 16 words"):
        exact_limit(lambda kept: kept.sum(1), 17)
    with pytest.raises(Misuse, match="at least 2 distinct words"):
        analytic_limit(model, ids, units(model, ids))
    with pytest.raises(InputError, match=r"a text is \[CLS\], then one id a word"):
        units(model, ids[1:])
