"""One function that people write in several ways has one map: norms, gates, memories, heads that talk, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.errors import TrailLost
from support.tiny import ids, noise, strong

WIDTH, HEADS = 8, 2
HEAD = WIDTH // HEADS


def heads(t: Tensor) -> Tensor:
    return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def maps(model: nn.Module, given: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    found = regard.explain(model, dict(given), 1, ["rollout", "gae", "raw_attention", "input_x_gradient"], form="walk")
    return {e.method: e.scores for e in found}


def same(model: nn.Module, plain: nn.Module, given: Mapping[str, Tensor], renamed: str = "") -> None:
    """The maps of two models that are one function. renamed: a stream that has another layout, of which the sum is compared."""
    torch.testing.assert_close(model(**given), plain(**given))
    ours, theirs = maps(model, given), maps(plain, given)
    for method, scores in theirs.items():
        assert set(ours[method]) == set(scores)
        for name, t in scores.items():
            own = ours[method][name]
            own = own.unflatten(1, (-1, t.shape[1])).sum(1) if name == renamed else own
            torch.testing.assert_close(own, t, atol=1e-5, rtol=1e-4, msg=f"{method} of {name}")


# -- norms of learned rows ---------------------------------------------------------------------------------------------


def parts(x: Tensor) -> tuple[Tensor, Tensor]:
    centred = x - x.mean(-1, keepdim=True)
    return centred, torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5)


NORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "the scale first": lambda x, g, b: parts(x)[0] * (parts(x)[1] * g) + b,
    "the scale as a row": lambda x, g, b: parts(x)[0] * (parts(x)[1] * g[None, None]) + b,
    "divided": lambda x, g, b: parts(x)[0] / (1 / parts(x)[1] / g) + b,
    "in the order of the formula": lambda x, g, b: g * parts(x)[0] * parts(x)[1] + b,
    "multiply": lambda x, g, b: torch.multiply(parts(x)[0], torch.multiply(g, parts(x)[1])) + b,
}


class Latents(nn.Module):
    """Learned rows look at the tokens, then at one another, through a norm that is written out."""

    def __init__(self, norm: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm = norm
        self.latents = nn.Parameter(torch.randn(3, WIDTH))
        self.scale, self.bias = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))
        self.qkv, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.latents.expand(len(x), -1, -1)
        for other in (x, None):
            q = self.qkv(self.norm(rows, self.scale, self.bias)).chunk(3, -1)[0]
            seen = self.norm(rows if other is None else other, self.scale, self.bias)
            _, k, v = self.qkv(seen).chunk(3, -1)
            rows = rows + (q @ k.mT).softmax(-1) @ v
        return self.head(rows.mean(1))


@pytest.mark.parametrize("name", NORMS)
def test_a_norms_scale_is_no_token(name: str) -> None:
    plain = Latents(lambda x, g, b: F.layer_norm(x, (WIDTH,), g, b))
    same(strong(Latents(NORMS[name])), strong(plain), {"x": noise(2, 4, WIDTH)})


# -- gates in place of residual sums -----------------------------------------------------------------------------------


def gru(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    a = F.linear(x, cell.weight_ih, cell.bias_ih).chunk(3, -1)
    b = F.linear(h, cell.weight_hh, cell.bias_hh).chunk(3, -1)
    r, z = (a[0] + b[0]).sigmoid(), (a[1] + b[1]).sigmoid()
    return (1 - z) * (a[2] + r * b[2]).tanh() + z * h


def lstm(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    """The state is the cell's memory, too."""
    i, f, g, o = (F.linear(x, cell.weight_ih, cell.bias_ih) + F.linear(h, cell.weight_hh, cell.bias_hh)).chunk(4, -1)
    return o.sigmoid() * (f.sigmoid() * h + i.sigmoid() * g.tanh()).tanh()


def rnn(cell: Any, x: Tensor, h: Tensor) -> Tensor:
    return (F.linear(x, cell.weight_ih, cell.bias_ih) + F.linear(h, cell.weight_hh, cell.bias_hh)).tanh()


CELLS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Tensor, Tensor], Tensor]]] = {
    "gru": (lambda: nn.GRUCell(WIDTH, WIDTH), gru),
    "lstm": (lambda: nn.LSTMCell(WIDTH, WIDTH), lstm),
    "rnn": (lambda: nn.RNNCell(WIDTH, WIDTH), rnn),
}


class Gated(nn.Module):
    """Attention whose output goes into a cell with the residual as its state (GTrXL)."""

    def __init__(self, name: str, by_hand: bool) -> None:
        super().__init__()
        make, self.formula = CELLS[name]
        self.name, self.by_hand, self.cell = name, by_hand, make()
        self.qkv, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)

    def gate(self, x: Tensor, h: Tensor) -> Tensor:
        if self.by_hand:
            return self.formula(self.cell, x, h)
        x, rows = x.reshape(-1, WIDTH), h.reshape(-1, WIDTH)
        out = self.cell(x, (rows, rows))[0] if self.name == "lstm" else self.cell(x, rows)
        return out.view_as(h)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            q, k, v = map(heads, self.qkv(x).chunk(3, -1))
            x = self.gate((q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).flatten(2), x)
        return self.head(x[:, 0])


@pytest.mark.parametrize("name", CELLS)
def test_a_step_of_a_recurrence_is_a_gate(name: str) -> None:
    model, given = strong(Gated(name, False)), {"x": noise(2, 5, WIDTH)}
    same(model, strong(Gated(name, True)), given)
    assert len(regard.inspect(model, given).calls) == 2
    assert regard.verify(model, given)


class Slots(nn.Module):
    """Slot attention in its authors' own words: a cell updates each slot."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.by_hand, self.slots = by_hand, nn.Parameter(torch.randn(1, 3, WIDTH))
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.gru, self.head = nn.GRUCell(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        slots, k, v = self.slots.expand(len(x), -1, -1), self.k(x), self.v(x)
        for _ in range(3):
            dots = torch.einsum("bid,bjd->bij", self.q(slots), k) * WIDTH**-0.5
            attn = dots.softmax(dim=1) + 1e-8
            updates = torch.einsum("bjd,bij->bid", v, attn / attn.sum(dim=-1, keepdim=True))
            if self.by_hand:
                slots = gru(self.gru, updates, slots)
            else:
                slots = self.gru(updates.reshape(-1, WIDTH), slots.reshape(-1, WIDTH)).reshape(len(x), -1, WIDTH)
        return self.head(slots[:, 0])


def test_slots_that_a_cell_updates() -> None:
    same(strong(Slots(False)), strong(Slots(True)), {"x": noise(2, 5, WIDTH)})


class Reader(nn.Module):
    """A cell reads the tokens one after the other before any attention: the rows are its states."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.qkv, self.head = nn.GRUCell(WIDTH, WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = [torch.zeros_like(x[:, 0])]
        for t in range(x.shape[1]):
            states.append(self.cell(x[:, t], states[-1]))
        q, k, v = self.qkv(torch.stack(states[1:], 1)).chunk(3, -1)
        return self.head(((q @ k.mT).softmax(-1) @ v)[:, 0])


def test_a_recurrence_along_the_tokens_is_mixing() -> None:
    notes = regard.explain(strong(Reader()), noise(2, 5, WIDTH), 1).receipt.notes
    assert any("mixed outside attention" in n and "gru_cell" in n for n in notes), notes
    assert regard.verify(strong(Reader()), noise(2, 5, WIDTH)).contradictions == []


# -- memory keys and values, heads that talk ---------------------------------------------------------------------------

TALKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "not at all": lambda w, s: s,
    "by a convolution": lambda w, s: F.conv2d(s, w[..., None, None]),
    "by einsum": lambda w, s: torch.einsum("bhij,gh->bgij", s, w),
    "by tensordot": lambda w, s: torch.tensordot(s, w, ([1], [1])).movedim(-1, 1),
    "by a linear layer": lambda w, s: F.linear(s.permute(0, 2, 3, 1), w).permute(0, 3, 1, 2),
}
PLAIN = TALKS["by a linear layer"]


class Memory(nn.Module):
    """Learned keys and values beside those of the tokens, stored (memory, width), or with the heads apart."""

    def __init__(self, talk: Callable[[Any, Tensor], Tensor], apart: bool = True, folded: bool = False) -> None:
        super().__init__()
        self.talk, self.apart, self.folded = talk, apart, folded
        self.qkv, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)
        self.pre, self.post = (nn.Parameter(torch.randn(HEADS, HEADS)) for _ in range(2))
        self.mem_k, self.mem_v = (nn.Parameter(torch.randn(2, WIDTH)) for _ in range(2))
        if apart:
            strong(self)  # the same numbers, laid out otherwise
            for name in ("mem_k", "mem_v"):
                setattr(
                    self, name, nn.Parameter(getattr(self, name).detach().unflatten(1, (HEADS, -1)).transpose(0, 1))
                )

    def memory(self, t: Tensor, batch: int) -> Tensor:
        if self.apart:
            return t[None].repeat(batch, 1, 1, 1)
        return heads(t.expand(batch, -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            q, k, v = map(heads, self.qkv(x).chunk(3, -1))
            k, v = (torch.cat([self.memory(m, len(x)), t], 2) for m, t in ((self.mem_k, k), (self.mem_v, v)))
            if self.folded:
                q, k, v = (t.flatten(0, 1) for t in (q, k, v))
                o = ((q @ k.mT).softmax(-1) @ v).unflatten(0, (-1, HEADS))
            else:
                o = self.talk(self.post, self.talk(self.pre, q @ k.mT).softmax(-1)) @ v
            x = x + o.transpose(1, 2).flatten(2)
        return self.head(x[:, 0])


@pytest.mark.parametrize("name", TALKS)
def test_memories_of_each_head_are_one_token(name: str) -> None:
    """However they are stored; what falls on a memory is on the parts of all heads."""
    plain = Memory(PLAIN if name != "not at all" else TALKS[name], apart=False)
    model, given = Memory(TALKS[name]).eval(), {"x": noise(2, 4, WIDTH)}
    same(model, strong(plain), given, renamed="mem_v")
    proof = regard.verify(model, given)
    assert proof.contradictions == []
    assert proof.claims > 0
    assert "attention calls" not in " ".join(regard.explain(model, given, 1).receipt.notes)  # "look at tokens of ..."


def test_memories_of_heads_that_are_folded_into_the_batch() -> None:
    plain = strong(Memory(TALKS["not at all"], apart=False))
    same(Memory(TALKS["not at all"], folded=True).eval(), plain, {"x": noise(2, 4, WIDTH)}, renamed="mem_v")


class Lost(Memory):
    """Its second layer's tokens are not known."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in range(2):
            x = torch.linalg.solve(torch.eye(x.shape[1]), x) if layer else x
            q, k, v = map(heads, self.qkv(x).chunk(3, -1))
            o = self.talk(self.post, self.talk(self.pre, q @ k.mT).softmax(-1)) @ v
            x = x + o.transpose(1, 2).flatten(2)
        return self.head(x[:, 0])


@pytest.mark.parametrize("name", TALKS)
def test_a_lost_call_is_seen_though_its_heads_talk(name: str) -> None:
    """Without it, the map would be that of the first layer alone."""
    with pytest.raises(TrailLost, match=r"attention call 1 .*lost at `linalg_solve`"):
        regard.explain(strong(Lost(TALKS[name], apart=False)), noise(2, 4, WIDTH), 1)


# -- tables ------------------------------------------------------------------------------------------------------------

LOOKUPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": lambda t, i: t[i],
    "index of a tuple": lambda t, i: t[i, :],
    "index, flat": lambda t, i: t[i.flatten()].view(*i.shape, -1),
    "index_select": lambda t, i: torch.index_select(t, 0, i.reshape(-1)).unflatten(0, i.shape),
    "gather": lambda t, i: t.gather(0, i.reshape(-1, 1).expand(-1, WIDTH)).view(*i.shape, -1),
    "take_along_dim": lambda t, i: torch.take_along_dim(t, i.reshape(-1, 1), 0).view(*i.shape, -1),
    "one by one": lambda t, i: torch.stack([t[j] for j in i.unbind(1)], 1),
    "of a padded table": lambda t, i: torch.cat([t, torch.zeros(1, WIDTH)])[i],
    "of a scaled table": lambda t, i: (t * 2.0)[i] / 2.0,
}  # fmt: skip


class Table(nn.Module):
    """Words picked from a learned table."""

    def __init__(self, look: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.look, self.words = look, nn.Parameter(torch.randn(12, WIDTH))
        self.qkv, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.look(self.words, ids)
        for _ in range(2):
            q, k, v = map(heads, self.qkv(x).chunk(3, -1))
            x = x + (q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).flatten(2)
        return self.head(x.mean(1))


@pytest.mark.parametrize("name", LOOKUPS)
def test_rows_that_ids_pick_are_the_ids_tokens(name: str) -> None:
    same(
        strong(Table(LOOKUPS[name])), strong(Table(lambda t, i: F.embedding(i, t))), {"ids": ids(2, 5, low=0, high=12)}
    )


PICKED_OTHERWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a table for each sample": lambda t, i: t.expand(len(i), -1, -1).gather(1, i[..., None].expand(-1, -1, WIDTH)),
    "turned": lambda t, i: t.T[:, i].permute(1, 2, 0),
}


@pytest.mark.parametrize("name", PICKED_OTHERWISE)
def test_what_ids_pick_otherwise_is_not_the_tables_rows(name: str) -> None:
    """Refused, and what the refusal says to do gives the map."""
    model, plain = strong(Table(PICKED_OTHERWISE[name])), strong(Table(lambda t, i: F.embedding(i, t)))
    given = {"ids": ids(2, 5, low=0, high=12)}
    with pytest.raises(TrailLost, match=r"lost at .*; if its keys are the 5 tokens of ids, in order, say streams="):
        regard.explain(model, given, 1)
    ours, theirs = regard.explain(model, given, 1, streams={"ids": [0, 1]}), regard.explain(plain, given, 1)
    torch.testing.assert_close(ours.scores["ids"], theirs.scores["ids"])
