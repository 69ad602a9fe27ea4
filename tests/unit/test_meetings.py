"""Rows of several inputs at one place, and elements of one input that meet others of it: added in step, or out of step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.recording.proof.verify import verify
from support.tiny import noise, strong

WIDTH, TOKENS = 8, 6
Join = Callable[["Two", Tensor, Tensor], Tensor]


class Two(nn.Module):
    """Two inputs, joined before two attentions; the first row is read."""

    def __init__(self, join: Join, words: bool = False) -> None:
        super().__init__()
        self.join, self.words = join, words
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.ids = nn.ModuleList(nn.Embedding(20, WIDTH) for _ in range(2))
        self.qkv, self.head = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2)), nn.Linear(WIDTH, 3)

    def attention(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = self.qkv[layer](x).chunk(3, -1)
        return x + (q @ k.mT / 3).softmax(-1) @ v

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = (e(x) for e, x in zip(self.ids, (a, b), strict=True)) if self.words else (a, b)
        return self.head(self.attention(1, self.attention(0, self.join(self, a, b)))[:, 0])


IN_STEP: dict[str, Join] = {
    "as they are": lambda m, a, b: a + b,
    "each through a layer": lambda m, a, b: m.a(a) * m.b(b).sigmoid(),
    "both turned": lambda m, a, b: m.a(a).flip(1) + m.b(b.flip(1)),
    "both cut": lambda m, a, b: a[:, 1:] + m.b(b)[:, 1:],
}
OUT_OF_STEP: dict[str, Join] = {
    "turned": lambda m, a, b: a + b.flip(1),
    "turned, the other one": lambda m, a, b: a.flip(1) + b,
    "a layer, then turned": lambda m, a, b: m.a(a) * m.b(b).flip(1).sigmoid(),
    "turned, then a layer": lambda m, a, b: m.a(a) + m.b(b.flip(1)),
    "rolled": lambda m, a, b: a + b.roll(1, 1),
    "chosen": lambda m, a, b: m.a(a) + m.b(b)[:, [2, 1, 0, 5, 4, 3]],
    "one several times": lambda m, a, b: a + b[:, [0, 0, 0, 3, 4, 5]],
    "shifted": lambda m, a, b: a + F.pad(b, (0, 0, 1, 0))[:, :-1],
    "shifted by slices": lambda m, a, b: m.a(a)[:, 1:] + m.b(b)[:, :-1],
    "transposed": lambda m, a, b: m.a(a) + m.b(b).unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2),
    "in part": lambda m, a, b: torch.cat([a[:, :3] + b[:, 3:], a[:, 3:]], 1),
    "by a choice": lambda m, a, b: torch.where((torch.arange(TOKENS) > 2)[:, None], m.a(a) + 0 * m.b(b), b.flip(1)),
    "in step, then turned": lambda m, a, b: m.a(a + b) + b.flip(1),
}


def given(words: bool = False) -> dict[str, Tensor]:
    if words:
        generator = torch.Generator().manual_seed(1)
        return {n: torch.randint(0, 20, (2, TOKENS), generator=generator) for n in "ab"}
    return {n: noise(2, TOKENS, WIDTH, seed=i) for i, n in enumerate("ab")}


def literal(model: Two, x: dict[str, Tensor]) -> dict[str, Tensor]:
    """Σ x ⊙ ∂y/∂x of each token, by autograd alone; of words, of their embeddings."""
    held = {
        n: (e(t) if model.words else t).detach().requires_grad_()
        for e, (n, t) in zip(model.ids, x.items(), strict=True)
    }
    state = model.join(model, held["a"], held["b"])
    y = model.head(model.attention(1, model.attention(0, state))[:, 0])[:, 1].sum()
    grads = torch.autograd.grad(y, [*held.values()])
    return {n: (t * g).sum(-1).detach() for (n, t), g in zip(held.items(), grads, strict=True)}


@pytest.mark.parametrize("name", IN_STEP)
def test_inputs_in_step_share_one_map(name: str) -> None:
    model, x = strong(Two(IN_STEP[name])), given()
    found, expected = regard.explain(model, x, 1, "input_x_gradient"), literal(model, x)
    torch.testing.assert_close(found.scores["a"], expected["a"] + expected["b"])
    assert [*found.scores] == ["a"]
    assert regard.explain(model, x, 1).receipt.notes == []


@pytest.mark.parametrize(
    ("name", "words"),
    [(n, False) for n in OUT_OF_STEP] + [("turned", True), ("in step, then turned", True), ("in part", True)],
)
def test_inputs_out_of_step_have_a_map_each(name: str, words: bool) -> None:
    model, x = strong(Two(OUT_OF_STEP[name], words)), given(words)
    expected = literal(model, x)
    for methods in (["input_x_gradient"], ["input_x_gradient", "gae"]):
        found, *_ = regard.explain(model, x, 1, methods)
        for stream, scores in expected.items():
            torch.testing.assert_close(found.scores[stream], scores)


@pytest.mark.parametrize("name", OUT_OF_STEP)
def test_attention_maps_say_whose_tokens_they_leave_out(name: str) -> None:
    model, x = strong(Two(OUT_OF_STEP[name])), given()
    exp = regard.explain(model, x, 1)
    assert not exp.scores["b"].any()
    assert any(n.startswith("tokens of b were joined") and n.endswith("shown on a") for n in exp.receipt.notes)
    assert verify(model, x).contradictions == []


def test_two_towers_that_are_added_and_attended_again_are_told() -> None:
    """The rows go on under one name: what the other tower's attention moved is followed no further."""

    def towers(m: Two, a: Tensor, b: Tensor) -> Tensor:
        return m.attention(0, m.a(a)) + m.attention(0, m.b(b))

    model, x = strong(Two(towers)), given()
    assert any("tokens of b were joined (add) to those of a" in n for n in regard.explain(model, x, 1).receipt.notes)


def test_pooled_rows_of_two_towers_are_the_heads_affair() -> None:
    class Late(Two):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.attention(0, self.a(a))[:, 0] + self.attention(1, self.b(b))[:, 3])

    exp = regard.explain(strong(Late(IN_STEP["as they are"])), given(), 1)
    assert exp.receipt.notes == []
    assert exp.scores["a"].any()
    assert exp.scores["b"].any()


# -- one input that meets itself ------------------------------------------------------------------------------------------

ITSELF: dict[str, Callable[[Tensor], Tensor]] = {
    "shifted": lambda x: x + F.pad(x, (0, 0, 1, 0))[:, :-1],
    "neighbours": lambda x: x[:, 1:] + x[:, :-1],
    "turned": lambda x: x * x.flip(1).sigmoid(),
    "less the first": lambda x: x - x[:, :1],
    "a scan": lambda x: torch.stack([x[:, max(t - 1, 0)] * 0.5 + x[:, t] for t in range(TOKENS)], 1),
}


@pytest.mark.parametrize("name", ITSELF)
def test_tokens_that_meet_others_before_anything_else_are_told(name: str) -> None:
    model, x = strong(Two(lambda m, a, b: ITSELF[name](a))), given()
    notes = regard.explain(model, x, 1).receipt.notes
    assert any("mixed outside attention" in n and "of different tokens" in n for n in notes)
    assert verify(model, x).contradictions == []


def test_features_of_one_token_that_meet_are_not_told() -> None:
    def features(m: Two, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a[..., :4] - a[..., 4:], a[..., 4:] * a[..., :1]], -1) + a.flip(-1)

    assert not any("mixed" in n for n in regard.explain(strong(Two(features)), given(), 1).receipt.notes)


def test_a_token_that_no_attention_looks_at_is_no_padding() -> None:
    """It reaches the target beside attention: methods that follow gradients give it what it has."""
    model, x = strong(Two(lambda m, a, b: (a + b)[:, 1:] + (a + b)[:, :1])), given()
    expected = literal(model, x)
    assert bool((expected["a"] + expected["b"])[:, 0].abs().gt(1e-3).all())
    found = regard.explain(model, x, 1, "input_x_gradient").scores["a"]
    torch.testing.assert_close(found, expected["a"] + expected["b"])


class Depth(nn.Module):
    """A picture and its depth, of one channel, cut into patches each by itself, and added."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.depth = nn.Conv2d(3, WIDTH, 2, 2), nn.Conv2d(1, WIDTH, 2, 2)
        self.qkv, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, picture: Tensor, depth: Tensor) -> Tensor:
        x = (self.colour(picture) + self.depth(depth)).flatten(2).mT
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head((x + (q @ k.mT / 3).softmax(-1) @ v)[:, 0])


def test_pictures_of_other_channels_in_step_are_not_contradicted() -> None:
    proof = verify(strong(Depth()), {"picture": noise(2, 3, 6, 6), "depth": noise(2, 1, 6, 6, seed=3)})
    assert not proof.contradictions
    assert not proof.untested
    assert not proof.mixed
