"""The rules of operations: what keeps rows is a positive list, what moves or merges them is held to autograd's own map.

A step of a model takes tokens (batch, n, width) to rows (batch, m, width). Its literal map P (batch, m, n) is read off the
Jacobian; what the trail claims is what relevance on each row goes back to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.errors import TrailLost
from regard.recording import record
from regard.recording.tokens.elementwise import ELEMENT_WISE
from regard.recording.tokens.tracker import STRIDE
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


# -- a positive list --------------------------------------------------------------------------------------------------

ELSEWHERE = {
    "cuda",
    "xpu",
    "mps",
    "pin_memory",
    "share_memory",
    "_neg_view",
    "_conj",
    "lift_fresh",
    "requires_grad",
    "__deepcopy__",
}


def spellings(name: str) -> Iterator[Callable[..., Any]]:
    rooms = [torch.special] if name.startswith("special_") else [torch.Tensor, torch, F, torch.ops.aten]
    found = [getattr(room, name.removeprefix("special_"), None) for room in rooms]
    found = [f for f in found if f is not None] or [getattr(torch.Tensor, name + "_", None)]
    yield from (f if callable(f) else f.__get__ for f in found if callable(f) or hasattr(f, "__get__"))


def others(x: Tensor) -> Iterator[tuple[Any, ...]]:
    y = x.roll(1, 0)
    yield from [(), (y,), (0.5,), (2,), (y, y), (0.1, 0.9), (torch.float32,), (x != x[1, 2], 1.0), (torch.ones(1),)]
    yield from [(torch.tensor([0.2, 2.0]),), (2, y)]


def ran(f: Callable[..., Any], *operands: Any) -> Tensor | None:
    torch.manual_seed(1)
    try:
        out = f(*operands)
    except (TypeError, RuntimeError, ValueError, NotImplementedError):
        return None
    return out.clone().to(torch.complex64) if isinstance(out, Tensor) and out.shape == operands[0].shape else None


def elsewhere(f: Callable[..., Any], x: Tensor) -> list[float]:
    """How much a result changes at other places when the operand changes at one; nothing for what cannot be called so."""
    changed, found = x.clone(), []
    changed[1, 2] = ~x[1, 2] if x.dtype == torch.bool else x[1, 2] * 2
    for more in others(x):
        a, b = ran(f, x.clone(), *more), ran(f, changed.clone(), *more)
        if a is not None and b is not None:
            change = (torch.view_as_real(a - b).nan_to_num(0, 0, 0).abs().sum(-1)).clone()
            change[1, 2] = 0
            found.append(float(change.max()))
            break
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.long
def test_each_place_of_an_element_wise_result_is_made_of_that_place_alone() -> None:
    """Another number at one place of the operand: the result is another at this place at the most."""
    torch.manual_seed(0)
    real = torch.rand(3, 4) * 0.8 + 0.1
    operands = [real, real * 5 + 1.1, real < 0.5, torch.randint(1, 5, (3, 4)), torch.randn(3, 4, dtype=torch.complex64)]
    names = {n.rstrip("_") if not n.startswith("__") else n for n in ELEMENT_WISE} - ELSEWHERE
    changes = {n: [c for x in operands for f in spellings(n) for c in elsewhere(f, x)] for n in names}
    assert {n for n, c in changes.items() if not c} == set()
    assert {n for n, c in changes.items() if max(c) > 1e-6} == set()


@pytest.mark.parametrize("f", [torch.fliplr, lambda x: x.cumsum(0), lambda x: x.softmax(0), lambda x: x.roll(1, 0)])
def test_that_test_can_fail(f: Callable[..., Any]) -> None:
    assert max(elsewhere(f, torch.rand(3, 4))) > 1e-3


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


MOVED: dict[str, Step] = {
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


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("name", [*MOVED, *WRITTEN, *MERGED])
def test_what_moves_is_written_or_merged_is_followed(name: str, attended: bool) -> None:
    held((MOVED | WRITTEN | MERGED)[name], attended)


@pytest.mark.parametrize("name", ["scatter_reduce, of each sample's own", "scatter_add", "fliplr", "where"])
def test_rollout_and_gae_through_a_step_are_products_of_whole_matrices(name: str) -> None:
    """With P the step's literal map: rollout = the read row of Ā₂ P Ā₁; gae = that of (I + E₂) P (I + E₁), less P's own."""
    model, x = built((MOVED | WRITTEN | MERGED)[name]), noise(2, TOKENS, WIDTH).double()
    target = model(x)[:, 1].sum()
    G = torch.autograd.grad(target, model.maps)
    maps, before = [A.detach() for A in model.maps], model.given.detach()
    P = literal(model, before)
    eyes = [torch.eye(A.shape[-1], dtype=A.dtype) for A in maps]
    whole = [(A + eye) / 2 for A, eye in zip(maps, eyes, strict=True)]
    torch.testing.assert_close(
        regard.explain(model, x, 1, "rollout").scores["input"].double(), (whole[1] @ P @ whole[0])[:, 0]
    )
    E = [(A * g).clamp(min=0) for A, g in zip(maps, G, strict=True)]
    expected = (eyes[1] + E[1]) @ P @ (eyes[0] + E[0]) - P
    torch.testing.assert_close(regard.explain(model, x, 1, "gae").scores["input"].double(), expected[:, 0])


def gone(x: Tensor) -> Tensor:
    """Rows whose trail is lost."""
    return torch.linalg.solve(torch.eye(TOKENS, dtype=x.dtype).flip(0), x)


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


@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("name", MATRICES)
def test_a_constant_matrix_on_the_token_axis_is_followed(name: str, attended: bool) -> None:
    step = MATRICES[name]
    model, x = built(step, attended=attended), noise(2, TOKENS, WIDTH).double()
    recording = record(model, x)
    expected = literal(model, x)
    expected = expected / expected.abs().sum(-1, keepdim=True).clamp(min=1e-9)
    torch.testing.assert_close(claimed(recording, len(recording.calls) - 1), expected)
    assert recording.mixers == []


def test_rows_chosen_by_the_input_are_followed_as_chosen_and_it_is_said() -> None:
    def routed(m: Steps, x: Tensor) -> Tensor:
        scores = m.qkv[0](x)[..., :TOKENS]
        hard = F.one_hot(scores.argmax(-1), TOKENS).double()
        return (hard - scores.softmax(-1).detach() + scores.softmax(-1)) @ x

    model, x = built(routed), noise(2, TOKENS, WIDTH).double()
    recording = record(model, x)
    chosen = recording.calls[1].keys % STRIDE - 1
    hard = model.qkv[0](model.given)[..., :TOKENS].argmax(-1)
    assert torch.equal(chosen, hard)
    assert any("chosen by the input" in d for d in recording.doubts())


MIXED: dict[str, tuple[Step, str]] = {
    "a mixer": (lambda m, x: m.mix(x.mT).mT, "linear in mix"),
    "a mixer beside its residual": (lambda m, x: x + m.mix(x.mT).mT, "linear in mix"),
    "a gate": (lambda m, x: x * m.mix(x.mT).mT.sigmoid(), "linear in mix"),
    "tensordot": (lambda m, x: torch.tensordot(m.learned, x, ([1], [1])).transpose(0, 1), "tensordot"),
    "matmul": (lambda m, x: m.learned @ x, "matmul"),
    "einsum": (lambda m, x: torch.einsum("mn,bnd->bmd", m.learned, x), "einsum"),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_learned_matrix_on_the_token_axis_is_told(name: str) -> None:
    step, operation = MIXED[name]
    model, x = built(step), noise(2, TOKENS, WIDTH).double()
    exp = regard.explain(model, x, 1, "rollout")
    assert f"tokens are mixed outside attention ({operation}), which maps do not follow" in exp.receipt.notes
    call = record(model, x).calls[1]
    assert call.keys.unique().numel() == call.keys.numel(), "each mixture is a row of its own"


def test_a_learned_matrix_that_no_attention_reads_is_the_heads_affair() -> None:
    class Pooled(Steps):
        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.learned @ self.attention(0, x))[:, 0])

    assert regard.explain(strong(Pooled(lambda m, x: x)).eval(), noise(2, TOKENS, WIDTH), 1).receipt.notes == []


def test_linformer_is_explained_and_told() -> None:
    class Linformer(Steps):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv[0](x).chunk(3, -1)
            x = x + (q @ (self.learned @ k).mT / 2).softmax(-1) @ (self.learned @ v)
            return self.head(x)[:, 0]

    exp = regard.explain(strong(Linformer(lambda m, x: x)).eval(), noise(2, TOKENS, WIDTH), 1, "raw_attention")
    assert "tokens are mixed outside attention (matmul), which maps do not follow" in exp.receipt.notes
    torch.testing.assert_close(exp.scores["input"], torch.full((2, TOKENS), 1 / TOKENS))


def test_one_hot_words_times_a_matrix_are_tokens() -> None:
    class Words(Steps):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(self.words(F.one_hot(ids, 50).float()))

    model = Words(lambda m, x: x.flip(1))
    model.words = nn.Linear(50, WIDTH)
    ids = torch.randint(0, 50, (2, TOKENS))
    exp = regard.explain(strong(model).eval(), {"ids": ids}, 1)
    assert exp.scores["ids"].shape == (2, TOKENS)
    assert bool((exp.scores["ids"] != 0).any())


LOST: dict[str, tuple[Step, str]] = {
    "linalg_solve": (lambda m, x: torch.linalg.solve(torch.eye(TOKENS, dtype=x.dtype).flip(0), x), "linalg_solve"),
    "fft": (lambda m, x: torch.fft.fft(x, dim=1).real, "fft_fft"),
    "cross": (lambda m, x: torch.linalg.cross(x.mT[..., :3], x.mT[..., 3:]).repeat(1, 1, 2).mT, "linalg_cross"),
    "trapezoid": (lambda m, x: torch.cumulative_trapezoid(x, dim=1), "cumulative_trapezoid"),
    "lost rows, written": (changed(lambda y, x: y.__setitem__((slice(None), slice(3, 5)), gone(x)[:, :2])), "linalg_solve"),
    "lost rows, put": (lambda m, x: x.index_put((torch.tensor([[0], [1]]), EACH), gone(x)[:, 1:3]), "linalg_solve"),
    "lost rows, scattered": (lambda m, x: x.scatter(1, wide(EACH, x), gone(x)[:, 1:3]), "linalg_solve"),
    "lost rows, copied": (changed(lambda y, x: y.copy_(gone(x))), "linalg_solve"),
    "lost rows, copied into a view": (changed(lambda y, x: y[:, 2:4].copy_(gone(x)[:, 4:])), "linalg_solve"),
    "lost rows, chosen": (lambda m, x: torch.where((LAST > 2)[:, None], x, gone(x)), "linalg_solve"),
    "lost rows, merged": (lambda m, x: MERGED["index_add"](m, gone(x)), "linalg_solve"),
    "written into lost rows": (lambda m, x: gone(x).scatter(1, wide(EACH, x), x[:, 1:3]), "linalg_solve"),
    "fold": (lambda m, x: F.fold(F.unfold(x[:, None], (3, 1)), (TOKENS, WIDTH), (3, 1))[:, 0], "fold"),
}  # fmt: skip


@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("name", LOST)
def test_what_is_in_no_table_ends_the_trail_by_name(name: str, attended: bool) -> None:
    step, says = LOST[name]
    model, x = built(step, attended=attended), noise(2, TOKENS, WIDTH).double()
    with pytest.raises(TrailLost, match=says):
        regard.explain(model, x, 1)


def test_what_ended_the_trail_and_comes_back_beside_the_rows_it_was_made_of_is_told() -> None:
    model = built(lambda m, x: x + torch.linalg.solve(torch.eye(TOKENS, dtype=x.dtype) * 2, x))
    notes = regard.explain(model, noise(2, TOKENS, WIDTH).double(), 1).receipt.notes
    assert [n for n in notes if "mixed outside attention (linalg_solve)" in n]


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


@pytest.mark.parametrize("method", ["gae", "rollout"])
@pytest.mark.parametrize(
    ("one", "other"),
    [(product_scores, dot), (keys_first, dot), (product_heads, dot_heads), (additive, additive_by_vector),
     (distances, distances_by_product)],
)  # fmt: skip
def test_attention_by_broadcasting_is_attention(one: Attend, other: Attend, method: str) -> None:
    torch.manual_seed(3)
    model, x = strong(Spelled(one)).double().eval(), noise(2, TOKENS, WIDTH).double()
    found = regard.explain(model, x, 1, method)
    model.attend = other
    torch.testing.assert_close(found.scores["input"], regard.explain(model, x, 1, method).scores["input"])
    assert found.receipt.notes == []


def test_additive_attention_is_held_to_autograd() -> None:
    """gae of one layer is (A ⊙ ∂y/∂A)₊ of the read row."""
    kept: list[Tensor] = []

    def attend(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.append(m.score(torch.tanh(q[:, :, None] + k[:, None]))[..., 0].softmax(-1))
        return (kept[-1][..., None] * v[:, None]).sum(2)

    model, x = strong(Spelled(attend)).double().eval(), noise(2, TOKENS, WIDTH).double()
    model.qkv = model.qkv[:1].eval()
    (G,) = torch.autograd.grad(model(x)[:, 1].sum(), kept)
    expected = (kept[0] * G).clamp(min=0)[:, 0].detach()
    torch.testing.assert_close(regard.explain(model, x, 1).scores["input"].double(), expected)


def quiet(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    w = (q @ k.mT / 2).exp()
    return (w / (1 + w.sum(-1, keepdim=True))) @ v


def with_a_sink(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.pad(q @ k.mT / 2, (0, 1)).softmax(-1)[..., :-1] @ v


@pytest.mark.parametrize("method", ["gae", "rollout"])
def test_quiet_attention_is_a_softmax_with_a_sink(method: str) -> None:
    torch.manual_seed(3)
    model, x = strong(Spelled(quiet)).double().eval(), noise(2, TOKENS, WIDTH).double()
    found = regard.explain(model, x, 1, method).scores["input"]
    model.attend = with_a_sink
    torch.testing.assert_close(found, regard.explain(model, x, 1, method).scores["input"])


@pytest.mark.parametrize("streams", [None, {"tokens": 0}, {"input": 1}])
@pytest.mark.parametrize("made", ["sigmoid", "relu"])
def test_weights_that_each_key_has_by_itself_are_refused_by_name(made: str, streams: Any) -> None:
    model = strong(Spelled(lambda m, q, k, v: getattr(q @ k.mT, made)() @ v)).eval()
    with pytest.raises(TrailLost, match=f"call 0 .* no softmax .*`{made}`") as refusal:
        regard.explain(model, noise(2, TOKENS, WIDTH), 1, streams=streams)
    assert "0 keys" not in str(refusal.value)
    assert "streams=" not in str(refusal.value)
