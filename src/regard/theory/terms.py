"""The letters of the closed forms, read off a classifier for one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import InputError
from regard.theory.classifier import CLS, SPECIAL, UNK, AttentionClassifier

Ids = Int[Tensor, " token"]


class Matrices(NamedTuple):
    """The matrices of every head i = 1..K, and √d_att."""

    q: Float[Tensor, "head key width"]
    k: Float[Tensor, "head key width"]
    v: Float[Tensor, "head value width"]
    l: Float[Tensor, "head value"]
    root: float


class Terms(NamedTuple):
    """What a text makes of them; token 0 is [CLS]. `g`: exp(qᵀk_t / √d_att), of which α is the share."""

    e: Float[Tensor, "token width"]
    q: Float[Tensor, "head key"]
    k: Float[Tensor, "head token key"]
    v: Float[Tensor, "head token value"]
    g: Float[Tensor, "head token"]
    alpha: Float[Tensor, "head token"]
    said: Float[Tensor, "head token"]
    """W_ℓ v_t: what a token says, before it is weighed."""


def weights(model: AttentionClassifier) -> Matrices:
    """W_q, W_k, W_v, W_ℓ of every head."""
    K, layer = model.heads, model.layer
    q, k, v = (of.weight.detach().unflatten(0, (K, -1)) for of in (layer.query, layer.key, layer.value))
    return Matrices(q, k, v, model.output.weight.detach()[0].unflatten(0, (K, -1)), layer.root)


@torch.no_grad()
def terms(model: AttentionClassifier, ids: Ids) -> Terms:
    """The letters for one text. g is divided by its largest value in each head, which no formula notices."""
    W = weights(model)
    return _terms(W, model.embed(ids[None])[0])


@torch.no_grad()
def unknown(model: AttentionClassifier, ids: Ids) -> tuple[Terms, Terms]:
    """The letters for a text, and for the same with every word but [CLS] replaced by [UNK]; both g on one scale."""
    W = weights(model)
    ids_unk = torch.where(torch.arange(len(ids), device=ids.device) == 0, ids, UNK)
    e, e_unk = model.embed(ids[None])[0], model.embed(ids_unk[None])[0]
    both = _terms(W, torch.cat([e, e_unk[1:]]))
    n = len(ids)
    own = torch.arange(n)
    other = torch.cat([own[:1], torch.arange(n, 2 * n - 1)])
    return _picked(both, own), _picked(both, other)


def _terms(W: Matrices, e: Tensor) -> Terms:
    q = W.q @ e[0]
    k, v = e @ W.k.mT, e @ W.v.mT
    S = torch.einsum("hk,htk->ht", q, k) / W.root
    g = (S - S.amax(-1, keepdim=True)).exp()
    return Terms(e, q, k, v, g, g / g.sum(-1, keepdim=True), torch.einsum("hv,htv->ht", W.l, v))


def _picked(of: Terms, at: Tensor) -> Terms:
    """The terms of some tokens; α is the share among them."""
    g = of.g[:, at]
    return Terms(of.e[at], of.q, of.k[:, at], of.v[:, at], g, g / g.sum(-1, keepdim=True), of.said[:, at])


class Units(NamedTuple):
    """The distinct words of a text, in the order of their first places, and which of them each token is ([CLS]: −1)."""

    words: list[str]
    of: Int[Tensor, " token"]


def units(model: AttentionClassifier, ids: Ids, words: Sequence[str] | None = None) -> Units:
    """What LIME removes: a word, wherever it occurs. Words that the model does not know are told apart by `words`."""
    names = [model.words[i] for i in ids.tolist()[1:]] if words is None else [*words]
    if ids[0] != CLS or len(names) != len(ids) - 1 or not names:
        raise InputError(f"a text is {SPECIAL[CLS]}, then one id a word; got {len(ids)} ids and {len(names)} words")
    first = {word: i for i, word in enumerate(dict.fromkeys(names))}
    return Units([*first], torch.tensor([-1, *(first[w] for w in names)], device=ids.device))
