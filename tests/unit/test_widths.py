"""Tokens of several inputs side by side along their features: cut apart, they are each input's own; mixed, they are one row.

The literal twin of what is cut apart never joined it; that of what is mixed adds two layers, one for each input.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from support.tiny import noise, strong

WIDTH, TOKENS = 4, 5
METHODS = ["raw_attention", "rollout", "gae", "input_x_gradient"]
Way = Callable[["Model", Tensor, Tensor], "Tensor | tuple[Tensor, Tensor]"]


class Model(nn.Module):
    """Two inputs, one joined state of both or a state of each; the first looks at the second, then at itself."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way
        self.a, self.b, self.both = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.scale, self.shift = nn.Parameter(torch.ones(2 * WIDTH)), nn.Parameter(torch.zeros(TOKENS, 2 * WIDTH))
        self.position = nn.Parameter(torch.zeros(TOKENS, WIDTH))
        self.q = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.kv, self.head = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(2)), nn.Linear(WIDTH, 3)

    def look(self, layer: int, x: Tensor, memory: Tensor) -> Tensor:
        q, (k, v) = self.q[layer](x), self.kv[layer](memory).chunk(2, -1)
        return x + (q @ k.mT / 2).softmax(-1) @ v

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        found = self.way(self, a, b)
        x = found if isinstance(found, Tensor) else self.look(0, *found)
        return self.head(self.look(1, x, x)[:, 0])


def side_by_side(m: Model, a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([m.a(a), m.b(b)], -1)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    first, second = x.chunk(2, -1)
    return first, second


def two(m: Model, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return m.a(a), m.b(b)


def in_a_buffer(m: Model, a: Tensor, b: Tensor) -> Tensor:
    x = a.new_zeros(*a.shape[:-1], 2 * WIDTH)
    x[..., :WIDTH], x[..., WIDTH:] = m.a(a), m.b(b)
    return x


def padded(m: Model, a: Tensor, b: Tensor) -> Tensor:
    return F.pad(m.a(a), (0, WIDTH)) + F.pad(m.b(b), (WIDTH, 0))


def written_into(m: Model, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    x = torch.cat([m.a(a), m.a(a)], -1)
    x[..., WIDTH:] = m.b(b)
    return halves(x)


APART: dict[str, tuple[Way, Way]] = {
    "chunk": (lambda m, a, b: halves(side_by_side(m, a, b)), two),
    "split of raw inputs": (lambda m, a, b: torch.cat([a, b], -1).split([WIDTH, WIDTH], -1), lambda m, a, b: (a, b)),
    "slices": (lambda m, a, b: ((x := side_by_side(m, a, b))[..., :WIDTH], x[..., WIDTH:]), two),
    "an axis of its own": (lambda m, a, b: side_by_side(m, a, b).unflatten(-1, (2, WIDTH)).unbind(2), two),
    "features ahead": (lambda m, a, b: halves(torch.cat([m.a(a).mT, m.b(b).mT], 1).mT), two),
    "a batch of both": (lambda m, a, b: side_by_side(m, a, b).unflatten(-1, (2, -1)).movedim(2, 0).unbind(), two),
    "each feature by itself": (
        lambda m, a, b: halves((side_by_side(m, a, b) * m.scale + m.shift).tanh()),
        lambda m, a, b: tuple((t + s).tanh() for t, s in zip(two(m, a, b), m.shift.chunk(2, -1)))),
    "turned": (lambda m, a, b: halves(torch.cat([m.a(a), m.b(b).flip(1)], -1)), lambda m, a, b: (m.a(a), m.b(b).flip(1))),
    "turned together": (
        lambda m, a, b: halves(side_by_side(m, a, b).flip(1)), lambda m, a, b: (m.a(a).flip(1), m.b(b).flip(1))),
    "the second looks": (lambda m, a, b: halves(side_by_side(m, a, b))[::-1], lambda m, a, b: two(m, a, b)[::-1]),
    "a buffer": (lambda m, a, b: halves(in_a_buffer(m, a, b)), two),
    "padded with zeros": (lambda m, a, b: halves(padded(m, a, b)), two),
    "written into": (written_into, two),
    "a position": (
        lambda m, a, b: (halves(torch.cat([m.a(a), m.position.expand_as(b)], -1))[0], b), lambda m, a, b: (m.a(a), b)),
}  # fmt: skip


def added(m: Model, a: Tensor, b: Tensor) -> Tensor:
    """The layer over both, as two layers that are added."""
    first, second = m.both.weight.chunk(2, 1)
    return F.linear(m.a(a), first, m.both.bias) + F.linear(m.b(b), second)


def mixed(make: Way) -> Way:
    return lambda m, a, b: m.both(make(m, a, b))


TOGETHER: dict[str, tuple[Way, Way]] = {
    "a layer": (mixed(side_by_side), added),
    "a buffer": (mixed(in_a_buffer), added),
    "padded with zeros": (mixed(padded), added),
    "a gate": (lambda m, a, b: F.glu(side_by_side(m, a, b)), lambda m, a, b: m.a(a) * m.b(b).sigmoid()),
    "turned": (lambda m, a, b: m.both(torch.cat([m.a(a), m.b(b).flip(1)], -1)), lambda m, a, b: added(m, a, b.flip(1))),
    "after attention": (
        lambda m, a, b: m.both(torch.cat([m.a(m.look(0, a, a)), m.b(b)], -1)), lambda m, a, b: added(m, m.look(0, a, a), b)),
}  # fmt: skip


def given() -> dict[str, Tensor]:
    return {n: noise(2, TOKENS, WIDTH, seed=i).double() for i, n in enumerate("ab")}


def told(receipt: regard.explanation.receipt.Receipt) -> list[str]:
    """Sentences of a receipt, the name of what joined tokens left out."""
    return [n.replace("(linear)", "(add)") for n in receipt.notes]


@pytest.mark.parametrize("name", [*APART, *(f"{n}, mixed" for n in TOGETHER)])
def test_maps_are_those_of_the_twin(name: str) -> None:
    way, literal = TOGETHER[name.removesuffix(", mixed")] if name.endswith(", mixed") else APART[name]
    model, twin = (strong(Model(w), 0.6).double() for w in (way, literal))
    torch.testing.assert_close(model(**given()), twin(**given()))
    assert not regard.verify(model, given()).contradictions
    found, expected = (regard.explain(m, given(), 1, METHODS, form="walk") for m in (model, twin))
    for one, other in zip(found, expected, strict=True):
        assert {*one.scores} == {*other.scores}, one.method
        for stream, scores in other.scores.items():
            torch.testing.assert_close(one.scores[stream], scores, atol=1e-6, rtol=1e-6)
        assert told(one.receipt) == told(other.receipt)


def test_a_norm_over_both_is_told() -> None:
    model = strong(Model(lambda m, a, b: halves(F.layer_norm(torch.cat([a, b], -1), (2 * WIDTH,))))).double()
    exp = regard.explain(model, given(), 1, "rollout")
    assert {*exp.scores} == {"a", "b"}
    assert any("mixed outside attention (layer_norm)" in n for n in exp.receipt.notes)


def test_a_position_that_is_cut_off_again_is_the_parameters() -> None:
    model = strong(Model(lambda m, a, b: halves(torch.cat([m.a(a), m.position.expand_as(b)], -1)))).double()
    call = regard.record(model, given(), target=1).calls[0]
    assert call.seen == 0
    assert "position" in {s.name for s in regard.inspect(model, given()).streams}


def test_tokens_that_are_added_after_attention_are_told() -> None:
    model = strong(Model(lambda m, a, b: m.look(0, a, a) + m.b(b))).double()
    exp = regard.explain(model, given(), 1, "rollout")
    assert "tokens of b were joined (add) to those of a: what they contribute there is shown on a" in exp.receipt.notes
    assert not regard.verify(model, given()).contradictions


def test_one_vector_beside_every_token_is_told() -> None:
    def beside(m: Model, a: Tensor, b: Tensor) -> Tensor:
        return m.both(torch.cat([m.a(a), m.b(b)[:, None].expand(-1, TOKENS, -1)], -1))

    model, x = strong(Model(beside)).double(), given() | {"b": noise(2, WIDTH).double()}
    notes = regard.explain(model, x, 1, "rollout").receipt.notes
    assert "tokens are mixed outside attention (linear in both), which maps do not follow" in notes
    assert not regard.verify(model, x).contradictions
