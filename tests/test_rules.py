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
from regard.recording.elementwise import ELEMENT_WISE
from regard.recording.tokens import STRIDE
from tiny import noise, strong

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
        self.stepped = x = self.step(self, x)
        return self.head(self.attention(1, x))[:, self.row]


def built(step: Step, **options: Any) -> Steps:
    torch.manual_seed(3)
    return strong(Steps(step, **options)).double().eval()


def literal(model: Steps, x: Tensor) -> Tensor:
    """P of a step, (batch, m, n), rows brought to sum 1: its Jacobian, summed over features."""
    jacobian = torch.autograd.functional.jacobian(lambda t: model.step(model, t), x)
    own = torch.einsum("bmwbnv->bmn", jacobian)
    return own / own.sum(-1, keepdim=True)


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


@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("name", MOVED)
def test_what_moves_is_followed(name: str, attended: bool) -> None:
    held(MOVED[name], attended)


LOST: dict[str, tuple[Step, str]] = {
    "linalg_solve": (lambda m, x: torch.linalg.solve(torch.eye(TOKENS, dtype=x.dtype).flip(0), x), "linalg_solve"),
    "fft": (lambda m, x: torch.fft.fft(x, dim=1).real, "fft_fft"),
    "cross": (lambda m, x: torch.linalg.cross(x.mT[..., :3], x.mT[..., 3:]).repeat(1, 1, 2).mT, "linalg_cross"),
    "trapezoid": (lambda m, x: torch.cumulative_trapezoid(x, dim=1), "cumulative_trapezoid"),
    "resampled": (lambda m, x: F.interpolate(x.mT, size=TOKENS, mode="linear").mT, "interpolate"),
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
