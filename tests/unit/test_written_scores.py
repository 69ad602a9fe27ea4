"""Scores that people write in other ways: chosen keys put back among all, distances, grouped heads. Beside each stands the same
attention in operations that other tests hold; every map is the same, and nothing is contradicted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from support.tiny import noise, strong

WIDTH, HEADS, TOKENS = 8, 2, 6
METHODS = ["raw_attention", "rollout", "attention_grad_cam", "gae", "bti_head", "attnlrp"]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Between = Callable[[Tensor], Tensor]


class Model(nn.Module):
    """Two residual layers of attention; the first row is read."""

    def __init__(self, attend: Attend, between: Between = lambda x: x) -> None:
        super().__init__()
        self.attend, self.between = attend, between
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.out, self.head = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2)), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for i, (qkv, out) in enumerate(zip(self.qkv, self.out, strict=True)):
            q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in qkv(x).chunk(3, -1))
            x = x + out(self.attend(q, k, v).transpose(1, 2).flatten(2))
            x = x if i else self.between(x)
        return self.head(x[:, 0])


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / 2


def among_the_highest(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    return s.masked_fill(s < s.topk(3).values[..., -1:], -torch.inf).softmax(-1) @ v


def scattered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    values, index = (s := scores(q, k)).topk(3, dim=-1)
    return torch.full_like(s, -torch.inf).scatter(-1, index, values).softmax(-1) @ v


def probabilities_scattered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    values, index = torch.topk(s := scores(q, k), 3)
    return torch.zeros_like(s).scatter(-1, index, values.softmax(-1)) @ v


def scattered_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    values, index = (s := scores(q, k)).topk(3, -1)
    return torch.zeros_like(s).scatter_(-1, index, values.softmax(-1)) @ v


def sorted_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    values, index = scores(q, k).sort(-1, descending=True)
    return torch.zeros_like(values).scatter(-1, index[..., :3], values[..., :3].softmax(-1)) @ v


def by_norms(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (-(q[:, :, :, None] - k[:, :, None]).norm(dim=-1)).softmax(-1) @ v


def by_cdist(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (-torch.cdist(q, k)).softmax(-1) @ v


def keys_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhkq,bhkd->bhqd", (-torch.cdist(k, q)).softmax(2), v)


def by_pairwise_distance(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (-F.pairwise_distance(q[:, :, :, None], k[:, :, None], eps=0)).softmax(-1) @ v


def by_cosines(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).softmax(-1) @ v


def by_cosine_similarity(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1).softmax(-1) @ v


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scores(q, k).softmax(-1) @ v


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Four heads of queries, two of keys."""
    q = q.unflatten(-1, (2, -1)).transpose(2, 3).flatten(1, 2)
    k, v = (t[..., :2].repeat_interleave(2, 1) for t in (k, v))
    return plain(q, k, v).unflatten(1, (2, 2)).transpose(2, 3).flatten(3)


def groups_in_the_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, t, _ = q.shape
    q = q.unflatten(-1, (2, -1)).transpose(2, 3).reshape(b, h, 2 * t, 2)
    return plain(q, k[..., :2], v[..., :2]).view(b, h, 2, t, 2).transpose(2, 3).flatten(3)


SAME: dict[str, tuple[Attend, Attend]] = {
    "scattered": (scattered, among_the_highest),
    "probabilities scattered": (probabilities_scattered, among_the_highest),
    "scattered in place": (scattered_in_place, among_the_highest),
    "sorted": (sorted_scores, among_the_highest),
    "cdist": (by_cdist, by_norms),
    "cdist, keys first": (keys_first, by_norms),
    "pairwise_distance": (by_pairwise_distance, by_norms),
    "cosine_similarity": (by_cosine_similarity, by_cosines),
    "groups in the rows": (groups_in_the_rows, grouped),
}


def agree(model: nn.Module, twin: nn.Module, methods: list[str]) -> None:
    x = noise(2, TOKENS, WIDTH).double()
    torch.testing.assert_close(model(x), twin(x))
    assert not regard.verify(model, x).contradictions
    found, expected = (regard.explain(m, x, 1, methods) for m in (model, twin))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.scores, other.scores, atol=1e-6, rtol=1e-5, msg=one.method)


@pytest.mark.parametrize("name", SAME)
def test_maps_are_those_of_the_twin(name: str) -> None:
    model, twin = (strong(Model(attend)).double() for attend in SAME[name])
    rules = name not in ("cdist", "cdist, keys first", "pairwise_distance", "cosine_similarity")
    agree(model, twin, METHODS if rules else METHODS[:-1])  # rules of the backward pass are about operations


def test_pooling_to_a_size_is_pooling_by_windows() -> None:
    by_windows = strong(Model(plain, lambda x: F.avg_pool1d(x.mT, 2).mT)).double()
    to_a_size = strong(Model(plain, lambda x: F.adaptive_avg_pool1d(x.mT, 3).mT)).double()
    agree(to_a_size, by_windows, METHODS[:-1])


class LowRank(Model):
    """A low-rank layer beside the one for queries, keys and values: two products, or one of three operands."""

    def __init__(self, at_once: bool) -> None:
        super().__init__(plain)
        self.at_once = at_once
        self.down, self.up = nn.Parameter(torch.ones(2, WIDTH)), nn.Parameter(torch.ones(WIDTH, 2))

    def forward(self, x: Tensor) -> Tensor:
        by_two = x @ self.down.T @ self.up.T
        at_once = torch.einsum("bnd,rd,er->bne", x, self.down, self.up)
        return super().forward(self.out[0](x) + (at_once if self.at_once else by_two))


def test_an_einsum_of_several_weights_is_a_layer() -> None:
    agree(strong(LowRank(True)).double(), strong(LowRank(False)).double(), METHODS[:-1])


def test_the_largest_of_rows_is_what_pooling_makes_of_them() -> None:
    pooled = strong(Model(plain, lambda x: F.max_pool1d(x.mT, 2).mT)).double()
    largest = strong(Model(plain, lambda x: x.unflatten(1, (-1, 2)).amax(2))).double()
    agree(largest, pooled, METHODS[:-1])


def test_keys_that_no_row_chooses_have_no_weight() -> None:
    def first_two(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = scores(q, k)
        index = torch.arange(2).expand(*s.shape[:-1], 2)
        return torch.zeros_like(s).scatter(-1, index, s.gather(-1, index).softmax(-1)) @ v

    model = strong(Model(first_two)).double()
    exp = regard.explain(model, noise(2, TOKENS, WIDTH).double(), 1, "raw_attention")
    assert bool((exp.scores["input"][:, :2] > 0).all())
    assert bool((exp.scores["input"][:, 2:] == 0).all())
