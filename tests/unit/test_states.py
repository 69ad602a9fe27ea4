"""Which states of its rows a call reads, and which of them the head reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard import Baseline, Site
from regard.errors import Misuse, RegardError
from support.families import noise, strong
from support.spellings import (
    TOKENS,
    WIDTH,
    Chosen,
    HeadByHead,
    OnlyTheFirstRow,
    ReadsAll,
    Whole,
    WrittenOver,
    heads,
    like,
)

# -- rows at different states -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [OnlyTheFirstRow, WrittenOver, Chosen])
def test_rows_that_a_call_did_not_change_did_not_absorb_it(cls: type[nn.Module]) -> None:
    """Relevance of an untouched row never goes through a call whose output it does not hold."""
    torch.manual_seed(7)
    model, x = strong(cls()), noise(2, TOKENS, WIDTH)
    maps = []
    inside = model.attention

    def kept(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(heads, (q, k, v))
        maps.append((q @ k.mT / 2).softmax(-1))
        return (maps[-1] @ v).transpose(1, 2).flatten(2)

    model.attention = kept  # type: ignore[method-assign]
    model(x)
    del model.attention
    assert inside == model.attention
    R = torch.eye(TOKENS + 1).repeat(2, 1, 1)
    for A in maps:
        E = torch.eye(TOKENS + 1).repeat(2, 1, 1)
        E[:, 0] = (E[:, 0] + A.mean(1)[:, 0]) / 2
        R = E @ R
    found = regard.explain(model, x, 1, "rollout").scores["input"]
    assert torch.allclose(found, R[:, 0, 1:], atol=1e-6)


def test_rows_that_later_layers_left_behind_are_read_too() -> None:
    torch.manual_seed(4)
    model, x = strong(ReadsAll()), noise(2, TOKENS, WIDTH)
    found = regard.explain(model, x, 1, "rollout")
    model.maps = []
    model(x, cut=True)[:, 1].sum()
    R = torch.eye(TOKENS + 1).repeat(2, 1, 1)
    states = []
    for A in model.maps:
        E = torch.eye(TOKENS + 1).repeat(2, 1, 1)
        E[:, : A.shape[2]] = (E[:, : A.shape[2]] + A.mean(1)) / 2
        R = E @ R
        states.append(R)
    rest = model.rest.detach().requires_grad_()  # what the head reads of the patches, and of nothing else
    (g,) = torch.autograd.grad(model.head(rest.tanh().mean(1))[:, 1].sum(), rest)
    norms = (g @ model.out[0].weight).norm(dim=-1)
    r = norms / norms.sum(1, keepdim=True)
    expected = states[2][:, 0] + (r[:, None] @ states[0][:, 1:])[:, 0]
    assert torch.allclose(found.scores["input"], expected[:, 1:], atol=1e-5)
    assert "6 tokens of input" in found.receipt.readout


def test_inspect_says_which_calls_make_one_attention(whole: nn.Module) -> None:
    seen = regard.inspect(like(whole, HeadByHead), noise(1, TOKENS, WIDTH))
    assert [c.attention for c in seen.calls] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert "3 (attention 1)" in str(seen)
    assert "attention 1" not in str(regard.inspect(whole, noise(1, TOKENS, WIDTH)))


class Twice(Whole):
    """Its tokens are copied before the first layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x, x], 1))


class TwiceByIndex(Whole):
    layers = 1

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, [*range(TOKENS)] * 2])


def in_chunks(rows: int, whole: type[Whole]) -> type[Whole]:
    class Chunked(whole):  # type: ignore[valid-type, misc]
        def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = map(heads, (q, k, v))
            parts = [F.scaled_dot_product_attention(c, k, v) for c in q.split(rows, 2)]
            return torch.cat(parts, 2).transpose(1, 2).flatten(2)

    return Chunked


@pytest.mark.parametrize("rows", [2, 3])
def test_copies_that_several_calls_tell_apart_are_refused(rows: int) -> None:
    with pytest.raises(RegardError, match="copies of one token"):
        regard.explain(strong(in_chunks(rows, TwiceByIndex)()), noise(1, TOKENS, WIDTH), 1, "gae")


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("method", ["gae", "rollout", "attention_grad_cam"])
def test_copies_that_are_told_apart_where_they_are_made_may_be_attended_in_several_calls(
    rows: int, method: str
) -> None:
    x, whole = noise(1, TOKENS, WIDTH), strong(Twice())
    chunked = in_chunks(rows, Twice)()
    chunked.load_state_dict(whole.state_dict())
    expected, found = (regard.explain(m.eval(), x, 1, method).scores["input"] for m in (whole, chunked))
    torch.testing.assert_close(found, expected)


def test_baselines_of_attention_sites_still_take_none(whole: nn.Module) -> None:
    with pytest.raises(Misuse, match="leave baseline= out"):
        regard.explain(whole, noise(1, TOKENS, WIDTH), 1, "taylor", site=Site.attention(0), baseline=Baseline.zero())


# -- earlier states beside the last ones ----------------------------------------------------------------------------------


class ReadsEarlier(Whole):
    """Three layers; the head reads the states after each of them in some way."""

    def __init__(self, read: Callable[[ReadsEarlier, list[Tensor]], Tensor]) -> None:
        super().__init__()
        self.read, self.heads = read, nn.ModuleList(nn.Linear(WIDTH, 3) for _ in range(3))
        self.wide, self.norm = nn.Linear(2 * WIDTH, 3), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x, states = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1), []
        for qkv, out in zip(self.qkv, self.out, strict=True):
            x = x + out(self.attention(*qkv(x).chunk(3, -1)))
            states.append(x)
        return self.read(self, states)


EARLIER: dict[str, tuple[Callable[[ReadsEarlier, list[Tensor]], Tensor], str]] = {
    "two class tokens, side by side": (lambda m, s: m.wide(torch.cat([s[1][:, 0], s[2][:, 0]], 1)), "attention 1"),
    "another token of an earlier layer": (lambda m, s: m.wide(torch.cat([s[0][:, 3], s[2][:, 0]], 1)), "attention 0"),
    "a mean over layers": (lambda m, s: m.head(torch.stack([t[:, 0] for t in s]).mean(0)), "attention 0, 1"),
    "a sum over layers": (lambda m, s: m.head(s[1][:, 0] + s[2][:, 0]), "attention 1"),
    "states added, then read": (lambda m, s: m.head((s[1] + s[2])[:, 0]), "attention 1"),
    "states normed and added": (lambda m, s: m.head((m.norm(s[1]) + m.norm(s[2]))[:, 0]), "attention 1"),
    "means of two layers": (lambda m, s: m.wide(torch.cat([s[0].mean(1), s[2].mean(1)], 1)), "attention 0"),
    "heads of their own": (lambda m, s: sum(h(t[:, 0]) for h, t in zip(m.heads, s, strict=True)), "attention 0, 1"),
    "states side by side": (lambda m, s: m.wide(torch.cat([s[1], s[2]], -1))[:, 0], "attention 1"),
}


@pytest.mark.parametrize("name", EARLIER)
def test_a_head_that_reads_earlier_states_too_is_told(name: str) -> None:
    torch.manual_seed(4)
    read, where = EARLIER[name]
    model, x = strong(ReadsEarlier(read)), noise(2, TOKENS, WIDTH)
    gae, plain = regard.explain(model, x, 1, ["gae", "input_x_gradient"])
    (note,) = [n for n in gae.receipt.notes if "also reads" in n]
    assert f"as {where} left them" in note
    assert not any("also reads" in n for n in plain.receipt.notes)


class Parallel(Whole):
    """Attention and a layer of each token by itself, side by side (GPT-J), and a long skip that a later layer attends to."""

    def forward(self, x: Tensor) -> Tensor:
        x, skipped = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1), []
        for qkv, out in zip(self.qkv, self.out, strict=True):
            x = x + (out(self.attention(*qkv(x).chunk(3, -1))) + out(x).tanh())
            skipped.append(x)
            x = x + skipped[0] if len(skipped) == 2 else x
        return self.pooled(x)


def test_parallel_branches_and_skips_are_no_earlier_reads(whole: nn.Module) -> None:
    torch.manual_seed(4)
    for model in (strong(Parallel()), whole, strong(ReadsEarlier(lambda m, s: m.head(s[2][:, 0] + s[2].mean(1))))):
        assert not any("also reads" in n for n in regard.explain(model, noise(2, TOKENS, WIDTH), 1).receipt.notes)


def test_earlier_states_that_the_target_does_not_rest_on_are_not_told() -> None:
    """Heads for training alone, states that are given back."""

    class Given(ReadsEarlier):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x)[-1]

    torch.manual_seed(4)
    stacked = strong(Given(lambda m, s: m.head(torch.stack([t[:, 0] for t in s]))))
    assert not any("also reads" in n for n in regard.explain(stacked, noise(2, TOKENS, WIDTH), 1).receipt.notes)


# -- a parameter's token beside several sets of tokens -----------------------------------------------------------------


class Towers(nn.Module):
    """Towers of their own tokens, and of weights of their own or not, that begin with one learned token."""

    def __init__(self, sizes: Sequence[int], pool: str, layers: int, shared: bool) -> None:
        super().__init__()
        self.sizes, self.pool, self.layers, self.shared = sizes, pool, layers, shared
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(len(sizes) * layers))
        self.head = nn.Linear(len(sizes) * WIDTH, 3)
        self.maps: list[list[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        outs, self.maps = [], []
        for tower, part in enumerate(x.split(self.sizes, 1)):
            state = torch.cat([self.token.expand(len(x), -1, -1), part], 1)
            self.maps.append([])
            for layer in range(self.layers):
                q, k, v = self.qkv[layer if self.shared else self.layers * tower + layer](state).chunk(3, -1)
                A = (q @ k.mT / 4).softmax(-1)
                self.maps[-1].append(A.detach())
                state = state + A @ v
            outs.append(state[:, 0] if self.pool == "first" else state.mean(1))
        return self.head(torch.cat(outs, -1))


@pytest.mark.parametrize("shared", [True, False], ids=["one attention's weights", "weights of their own"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("sizes", [(2, 4), (2, 2, 2)], ids=["towers", "windows"])
def test_a_learned_token_of_several_towers_is_one_in_each(sizes: Sequence[int], layers: int, shared: bool) -> None:
    torch.manual_seed(layers)
    model, x = strong(Towers(sizes, "first", layers, shared)), noise(2, sum(sizes), WIDTH)
    found = regard.explain(model, x, 1, "rollout")
    token, tokens = torch.zeros(2, 1), []
    for maps in model.maps:
        R = torch.eye(maps[0].shape[-1])
        for A in maps:
            R = (torch.eye(A.shape[-1]) + A) / 2 @ R
        token, tokens = token + R[:, 0, :1], [*tokens, R[:, 0, 1:]]
    torch.testing.assert_close(found.scores["token"], token)
    torch.testing.assert_close(found.scores["input"], torch.cat(tokens, 1))
