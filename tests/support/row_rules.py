"""One operation after another on the token axis, each with what it does to the rows written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.recording import record
from regard.recording.tokens.tags import STRIDE
from support.tiny import noise, strong

WIDTH, TOKENS = 4, 6

Step = Callable[[Any, Tensor], Tensor]


class Steps(nn.Module):
    """One attention with a residual, a step, a second attention; row `row` is read. In float64."""

    def __init__(self, step: Step, attended: bool = True, row: int = 0) -> None:
        super().__init__()
        self.step, self.attended, self.row = step, attended, row
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.mix, self.learned = nn.Linear(TOKENS, TOKENS), nn.Parameter(torch.randn(3, TOKENS))
        self.head = nn.Linear(WIDTH, 3)
        self.maps: list[Tensor] = []

    def attention(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = self.qkv[layer](x).chunk(3, -1)
        self.maps.append((q @ k.mT / 2).softmax(-1))
        return x + self.maps[-1] @ v

    def forward(self, x: Tensor) -> Tensor:
        self.maps = []
        x = self.attention(0, x) if self.attended else x
        self.given = x
        x = self.step(self, x)
        return self.head(self.attention(1, x))[:, self.row]


def built(step: Step, **options: Any) -> Steps:
    torch.manual_seed(3)
    return strong(Steps(step, **options)).double().eval()


def literal(model: Steps, x: Tensor) -> Tensor:
    """P of a step, (batch, m, n), rows brought to sum 1: its Jacobian, summed over features."""
    jacobian = torch.autograd.functional.jacobian(lambda t: model.step(model, t), x)
    own = torch.einsum("bmwbnv->bmn", jacobian)
    sums = own.sum(-1, keepdim=True)
    return own / torch.where(sums == 0, 1.0, sums)


def claimed(recording: Any, call: int) -> Tensor:
    """What each key of a call is made of, (batch, m, n)."""
    keys, stream = recording.calls[call].keys, recording.stream("input")
    rows = []
    for ids in keys.T:
        r = recording.zeros()
        r[ids // STRIDE - 1, ids % STRIDE] = 1.0
        rows.append(recording.settled(r)[:, stream.rows])
    return torch.stack(rows, 1)


# -- what moves -------------------------------------------------------------------------------------------------------

LAST = torch.arange(TOKENS - 1, -1, -1)


def grid(x: Tensor) -> Tensor:
    """Six tokens as a grid of two by three."""
    return x.unflatten(1, (2, 3))


def picture(x: Tensor) -> Tensor:
    """(batch, width, 2, 3)."""
    return x.mT.unflatten(2, (2, 3))


def flat(x: Tensor) -> Tensor:
    """(batch, width, rows, columns) to tokens."""
    return x.flatten(2).mT


def copy_moved(m: Steps, x: Tensor) -> Tensor:
    """A copy is moved in place; what it was copied from stands as it stood."""
    given = grid(x)
    given.clone().transpose_(1, 2)
    return given.flatten(1, 2)


MOVED: dict[str, Step] = {
    "a copy, in place": copy_moved,
    "fliplr": lambda m, x: torch.fliplr(x),
    "flipud": lambda m, x: torch.flipud(x.transpose(0, 1)).transpose(0, 1),
    "rot90": lambda m, x: torch.rot90(grid(x), 2, (1, 2)).flatten(1, 2),
    "rot90 on its side": lambda m, x: torch.rot90(grid(x), 1, (1, 2)).flatten(1, 2),
    "channel_shuffle": lambda m, x: F.channel_shuffle(x[..., None], 3)[..., 0],
    "pixel_shuffle": lambda m, x: flat(F.pixel_shuffle(picture(x).repeat_interleave(4, 1), 2))[:, 5:11],
    "pixel_unshuffle": lambda m, x: flat(F.pixel_unshuffle(picture(x).repeat(1, 1, 2, 2), 2)[:, ::4]),
    "take": lambda m, x: torch.take(x, torch.arange(x.numel()).view_as(x).flip(1)),
    "take_along_dim": lambda m, x: torch.take_along_dim(x, LAST[None, :, None], 1),
    "swapaxes": lambda m, x: torch.swapaxes(grid(x), 1, 2).flatten(1, 2),
    "in place": lambda m, x: grid(x).clone().transpose_(1, 2).unsqueeze_(1).squeeze_(1).flatten(1, 2),
    "unflatten": lambda m, x: grid(x).transpose(1, 2).flatten(1, 2),
    "fftshift": lambda m, x: torch.fft.fftshift(x, 1),
    "hsplit": lambda m, x: torch.cat(torch.hsplit(x, 3)[::-1], 1),
    "column_stack": lambda m, x: torch.column_stack([x[:, 4:], x[:, :4]]),
    "repeat_interleave": lambda m, x: x.repeat_interleave(torch.tensor([2, 0, 1, 1, 3, 1]), 1),
    "broadcast_tensors": lambda m, x: torch.broadcast_tensors(x.flip(1), torch.zeros(1))[0],
    "meshgrid": lambda m, x: torch.stack([torch.stack(torch.meshgrid(a, b, indexing="xy")[:1])[0, 0]
                                          for a, b in zip(x.flip(1).flatten(0, 1), x.flatten(0, 1), strict=True)])
    .view(x.shape),
    "masked_select": lambda m, x: x.masked_select((torch.arange(TOKENS) % 2 == 1)[:, None]).view(len(x), 3, WIDTH),
    "by keyword": lambda m, x: torch.flip(input=x, dims=(1,)),
    "complex": lambda m, x: torch.view_as_real(torch.view_as_complex(x.flip(1).unflatten(2, (2, 2))) * 1.0).flatten(2),
    "padded around": lambda m, x: F.pad(x.mT, (2, 1), mode="circular").mT,
    "padded with the last": lambda m, x: F.pad(x.mT, (0, 2), mode="replicate").mT,
}  # fmt: skip


def held(step: Step, attended: bool) -> None:
    """What the trail claims of the step's rows is what autograd says of them."""
    model, x = built(step, attended=attended), noise(2, TOKENS, WIDTH).double()
    recording = record(model, x)
    torch.testing.assert_close(claimed(recording, len(recording.calls) - 1), literal(model, x))


# -- what is written, and what is joined ------------------------------------------------------------------------------

EACH = torch.tensor([[4, 0], [1, 3]])
"""Places that differ from sample to sample."""


def wide(index: Tensor, x: Tensor) -> Tensor:
    return index.expand(len(x), -1)[..., None].expand(-1, -1, x.shape[-1])


def changed(write: Callable[[Tensor, Tensor], Any]) -> Step:
    """A step that writes into a copy of its tokens."""

    def step(m: Steps, x: Tensor) -> Tensor:
        out = x * 1
        write(out, x)
        return out

    return step


WRITTEN: dict[str, Step] = {
    "setitem": changed(lambda y, x: y.__setitem__((slice(None), slice(3, 5)), x[:, :2])),
    "setitem, a constant": changed(lambda y, x: y.__setitem__((slice(None), slice(3, 5)), 0.0)),
    "index_copy": lambda m, x: x.index_copy(1, torch.tensor([5, 1]), x[:, 2:4]),
    "index_fill": lambda m, x: x.index_fill(1, torch.tensor([5, 1]), 0.0),
    "index_put": lambda m, x: x.index_put((torch.tensor([[0], [1]]), EACH), x[:, 1:3]),
    "scatter": lambda m, x: x.scatter(1, wide(EACH, x), x[:, 1:3]),
    "scatter, into zeros": lambda m, x: torch.zeros_like(x).scatter_(1, wide(EACH, x), x[:, 1:3]),
    "scatter, some features": lambda m, x: x.scatter(2, torch.tensor([[[1]]]).expand(len(x), TOKENS, 1), 0.0),
    "scatter, a constant": lambda m, x: x.scatter(1, wide(EACH, x), 0.0),
    "put": lambda m, x: x.clone().put_(torch.arange(8), x[:, 3:5].flatten()[:8]),
    "masked_scatter": lambda m, x: x.masked_scatter((torch.arange(TOKENS) > 3)[:, None], x[:, :2]),
    "slice_scatter": lambda m, x: x.slice_scatter(x[:, :3], 1, 0, 6, 2),
    "select_scatter": lambda m, x: x.select_scatter(x[:, 5], 1, 2),
    "diagonal_scatter": lambda m, x: grid(x).diagonal_scatter(x[:, 4:].transpose(1, 2), 0, 1, 2).flatten(1, 2),
    "where": lambda m, x: torch.where((torch.arange(TOKENS) % 2 == 0)[:, None], x, x.flip(1)),
    "copy_ into a view": changed(lambda y, x: y[:, 2:4].copy_(x[:, 4:])),
    "zero_ of a view": changed(lambda y, x: y[:, 2:4].zero_()),
    "added into zeros, each at its place": lambda m, x: torch.zeros_like(x).index_add_(1, LAST, x),
    "index_put, accumulated, each at its place": lambda m, x: torch.zeros_like(x).index_put_(
        (torch.tensor([[0], [1]]), EACH), x[:, 1:3], accumulate=True),
}  # fmt: skip

MERGED: dict[str, Step] = {
    "scatter_reduce": lambda m, x: x[:, 1::2].scatter_reduce(1, wide(torch.tensor([[1, 2]]), x), x[:, 2::2], "mean"),
    "scatter_reduce, counted from the end": lambda m, x: x[..., 1::2, :].scatter_reduce(
        -2, wide(torch.tensor([[2, 2]]), x), x[..., 2::2, :], reduce="mean"),
    "scatter_reduce, of each sample's own": lambda m, x: x[:, :5].scatter_reduce(1, wide(EACH, x), x[:, 4:], "mean"),
    "scatter_reduce, without what stood there": lambda m, x: x[:, :3].scatter_reduce(
        1, wide(torch.tensor([[2, 2, 0]]), x), x[:, 3:], reduce="mean", include_self=False),
    "scatter_add": lambda m, x: x[:, 1::2].scatter_add(1, wide(torch.tensor([[1, 1]]), x), x[:, 2::2])
    / torch.tensor([1.0, 3, 1])[:, None],
    "scatter_add, of each sample's own": lambda m, x: x.scatter_add(1, wide(EACH, x), x[:, :2]),
    "index_add": lambda m, x: x[:, ::2].index_add(1, torch.tensor([0, 2, 2]), x[:, 1::2]),
    "index_reduce": lambda m, x: x[:, ::2].index_reduce(1, torch.tensor([0, 2, 2]), x[:, 1::2], "mean"),
    "clusters": lambda m, x: torch.zeros_like(x[:, :2]).index_add(1, torch.tensor([0, 1, 1, 0, 1, 1]), x),
    "merged twice": lambda m, x: MERGED["scatter_reduce, of each sample's own"](
        m, torch.cat([MERGED["scatter_reduce, of each sample's own"](m, x), x[:, :1]], 1)),
}  # fmt: skip

# -- matrices on the token axis ---------------------------------------------------------------------------------------


def hot(*rows: int) -> Tensor:
    return F.one_hot(torch.tensor(rows), TOKENS).double()


BAND = (
    torch.eye(TOKENS).double() / 2
    + torch.eye(TOKENS).roll(1, 0).double() / 4
    + torch.eye(TOKENS).roll(2, 0).double() / 4
)

EACH_HOT = torch.stack([hot(0, 4, 2), hot(5, 1, 1)])

MATRICES: dict[str, Step] = {
    "a selection, bmm": lambda m, x: torch.bmm(EACH_HOT[: len(x)], x),
    "a selection, einsum": lambda m, x: torch.einsum("nm,bnd->bmd", hot(3, 0, 5).T, x),
    "a permutation, matmul": lambda m, x: hot(5, 3, 0, 1, 2, 4) @ x,
    "a permutation, on the right": lambda m, x: (x.mT @ hot(5, 3, 0, 1, 2, 4).T).mT,
    "a permutation, linear": lambda m, x: F.linear(x.mT, hot(5, 3, 0, 1, 2, 4)).mT,
    "a permutation, tensordot": lambda m, x: torch.tensordot(x, hot(5, 3, 0, 1), ([1], [1])).mT,
    "a permutation, by head": lambda m, x: (
        (hot(5, 3, 0, 1) @ x.unflatten(2, (2, 2)).transpose(1, 2)).transpose(1, 2).flatten(2)
    ),
    "a selection with an empty row": lambda m, x: hot(1, 2, 3).mul(torch.tensor([[1.0], [0], [1]])) @ x,
    "means of neighbours": lambda m, x: BAND @ x,
    "means of neighbours, einsum": lambda m, x: torch.einsum("bnd,mn->bmd", x, BAND),
    "means of groups": lambda m, x: (torch.ones(1, 3).double() / 3 @ grid(x + 0 * m.qkv[0](x)[..., :WIDTH])).flatten(1, 2),
    "differences": lambda m, x: (torch.eye(TOKENS).double() * 2 - torch.eye(TOKENS).roll(1, 0).double()) @ x,
}  # fmt: skip

MIXED: dict[str, tuple[Step, str]] = {
    "a mixer": (lambda m, x: m.mix(x.mT).mT, "linear in mix"),
    "a mixer beside its residual": (lambda m, x: x + m.mix(x.mT).mT, "linear in mix"),
    "a gate": (lambda m, x: x * m.mix(x.mT).mT.sigmoid(), "linear in mix"),
    "tensordot": (lambda m, x: torch.tensordot(m.learned, x, ([1], [1])).transpose(0, 1), "tensordot"),
    "matmul": (lambda m, x: m.learned @ x, "matmul"),
    "einsum": (lambda m, x: torch.einsum("mn,bnd->bmd", m.learned, x), "einsum"),
}

# -- attention by broadcasting, and weights of other makes ---------------------------------------------------------------

Attend = Callable[["Spelled", Tensor, Tensor, Tensor], Tensor]


class Spelled(nn.Module):
    """Two layers of an attention that is spelled one way or another; the first row is read."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend, self.score = attend, nn.Linear(WIDTH, 1)
        self.qkv, self.head = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2)), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for qkv in self.qkv:
            x = x + self.attend(self, *qkv(x).chunk(3, -1))
        return self.head(x[:, 0])


def by_heads(t: Tensor) -> Tensor:
    return t.unflatten(-1, (2, -1)).transpose(1, 2)


def dot(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / 2).softmax(-1) @ v


def dot_heads(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = map(by_heads, (q, k, v))
    return dot(m, q, k, v).transpose(1, 2).flatten(2)


def product_scores(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a = (q[:, :, None] * k[:, None] / 2).sum(-1).softmax(-1)
    return (a[..., None] * v[:, None]).sum(2)


def keys_first(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a = torch.sum(k.unsqueeze(2) * q.unsqueeze(1), dim=-1).div(2).softmax(dim=1)
    return torch.sum(v.unsqueeze(2) * a.unsqueeze(-1), dim=1)


def product_heads(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = map(by_heads, (q, k, v))
    a = torch.mul(q.unsqueeze(3), k.unsqueeze(2)).sum(-1).div(2).softmax(-1)
    return (v.unsqueeze(2) * a.unsqueeze(-1)).sum(dim=-2).transpose(1, 2).flatten(2)


def additive(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return m.score(torch.tanh(q[:, :, None] + k[:, None]))[..., 0].softmax(-1) @ v


def additive_by_vector(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    energy = torch.tanh(q.unsqueeze(2) + k.unsqueeze(1))
    scores = torch.matmul(energy, m.score.weight[0]) + m.score.bias
    return torch.einsum("bnm,bmd->bnd", scores.softmax(-1), v)


def distances(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (-(q[:, :, None] - k[:, None]).pow(2).sum(-1)).softmax(-1) @ v


def distances_by_product(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (2 * q @ k.mT - k.pow(2).sum(-1)[:, None]).softmax(-1) @ v


def quiet(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    w = (q @ k.mT / 2).exp()
    return (w / (1 + w.sum(-1, keepdim=True))) @ v


def with_a_sink(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.pad(q @ k.mT / 2, (0, 1)).softmax(-1)[..., :-1] @ v
