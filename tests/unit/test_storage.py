"""Writes that reach a tensor by another one of the same memory, or past autograd: followed, told, or refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import regard
from regard.errors import ModelError, RegardError, TrailLost
from support.row_rules import TOKENS, WIDTH, Step, built, held
from support.tiny import noise


def after(write: Callable[[Tensor, Tensor], Tensor | None]) -> Step:
    """A step that writes x's rows, in another order, into a copy of x by some way."""

    def step(m: object, x: Tensor) -> Tensor:
        y = x * 1
        made = write(y, x)
        return y if made is None else made

    return step


def exchanged(y: Tensor, x: Tensor) -> None:
    y.data = x.flip(1).data


def under_no_grad(write: Callable[[Tensor, Tensor], object]) -> Callable[[Tensor, Tensor], None]:
    def run(y: Tensor, x: Tensor) -> None:
        with torch.no_grad():
            write(y, x)

    return run


PAST_AUTOGRAD: dict[str, tuple[Step, str]] = {
    "data": (after(exchanged), "data"),
    "data, copied into": (after(lambda y, x: _first(y, y.data.copy_(x.flip(1)))), "copy_"),
    "data, all of it": (after(lambda y, x: y.data.__setitem__(..., x.flip(1))), "__setitem__"),
    "data, a slice": (after(lambda y, x: y.data.__setitem__((slice(None), slice(2)), x[:, 4:].detach())), "__setitem__"),
    "detach, copied into": (after(lambda y, x: _first(y, y.detach().copy_(x.flip(1)))), "copy_"),
    "detach, one row": (after(lambda y, x: y.detach().__setitem__((slice(None), 0), x[:, 3].detach())), "__setitem__"),
    "a view of detach": (after(lambda y, x: _first(y, y.detach()[:, :2].copy_(x[:, 4:].detach()))), "copy_"),
    "no_grad, copied into": (after(under_no_grad(lambda y, x: y.copy_(x.flip(1)))), "copy_"),
    "no_grad, a slice": (after(under_no_grad(lambda y, x: y.__setitem__((slice(None), slice(2)), x[:, 4:]))), "__setitem__"),
    "no_grad, out=": (after(under_no_grad(lambda y, x: torch.mul(x.flip(1), 1.0, out=y.data))), "mul"),
    "no_grad, a constant": (after(under_no_grad(lambda y, x: y[:, :2].zero_())), "zero_"),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", PAST_AUTOGRAD)
def test_rows_written_past_autograd_are_refused_by_name(name: str) -> None:
    step, says = PAST_AUTOGRAD[name]
    model, x = built(step), noise(2, TOKENS, WIDTH).double()
    with pytest.raises(TrailLost, match=f"lost at `{says}, which autograd does not see`"):
        regard.explain(model, x, 1, "rollout")
    notes = regard.explain(model, x, 1, "input_x_gradient").receipt.notes
    assert any(f"overwritten where autograd does not see it ({says})" in n for n in notes)


@pytest.mark.parametrize("method", ["gae", "input_x_gradient"])
def test_values_that_are_changed_past_autograd_are_told(method: str) -> None:
    model, x = built(after(lambda y, x: _first(y, y.data.mul_(0.5)))), noise(2, TOKENS, WIDTH).double()
    assert any(
        "overwritten where autograd does not see it (mul_)" in n
        for n in regard.explain(model, x, 1, method).receipt.notes
    )


@pytest.mark.parametrize("method", ["gae", "input_x_gradient"])
def test_writes_that_autograd_sees_are_not_told(method: str) -> None:
    def usual(m: object, x: Tensor) -> Tensor:
        y = (x * 1).mul_(0.5)
        y[:, 1:].add_(1.0)
        kept = y.detach().clone()
        kept.zero_()
        return y + kept

    assert regard.explain(built(usual), noise(2, TOKENS, WIDTH).double(), 1, method).receipt.notes == []


ONE_MEMORY: dict[str, Step] = {
    "a view, before its tensor is written": after(lambda y, x: _first(y[:, :3], y.copy_(x.flip(1)))),
    "a view of a view": after(lambda y, x: _first(y, y[:, 1:][:, 1:3].copy_(x[:, 4:]))),
    "two views of a buffer": after(lambda y, x: _two_views(x)),
    "a view that is written, seen by another one": after(lambda y, x: _first(y[:, 1:5], y[:, :3].copy_(x[:, 3:]))),
    "heads side by side in a buffer": after(lambda y, x: _first(y, y.unflatten(2, (2, 2))[:, 1:].copy_(
        x.unflatten(2, (2, 2))[:, :-1]))),
    "a transposed view": after(lambda y, x: _first(y, y.mT[..., :2].copy_(x.mT[..., 4:]))),
    "added to a view": after(lambda y, x: _first(y, y[:, :2].mul_(2.0))),
}  # fmt: skip


def _first(y: Tensor, written: Tensor) -> Tensor:
    return y


def _two_views(x: Tensor) -> Tensor:
    buffer = torch.zeros_like(x)
    one, other = buffer[:, :3], buffer.view(len(x), TOKENS, WIDTH)
    one.copy_(x[:, 3:])
    other[:, 3:].copy_(x[:, :3])
    return buffer


@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("name", ONE_MEMORY)
def test_a_write_is_a_write_into_all_tensors_of_its_memory(name: str, attended: bool) -> None:
    held(ONE_MEMORY[name], attended)


def test_writes_into_detached_copies_are_followed_in_what_they_are() -> None:
    """y itself, which goes on, is not written into."""
    held(after(lambda y, x: _first(y, y.detach().clone().copy_(x.flip(1)))), True)


@pytest.mark.parametrize("out", [lambda y, x: y.detach().numpy(), lambda y, x: np.asarray(y.detach())])
@pytest.mark.parametrize("method", ["rollout", "input_x_gradient"])
def test_memory_that_is_changed_out_of_sight_is_refused(
    out: Callable[[Tensor, Tensor], np.ndarray], method: str
) -> None:
    def write(y: Tensor, x: Tensor) -> None:
        out(y, x)[:, 0] = 0.0

    with pytest.raises(ModelError, match="changes a tensor in place through"):
        regard.explain(built(after(write)), noise(2, TOKENS, WIDTH).double(), 1, method)


def test_memory_that_is_only_read_is_no_matter() -> None:
    def read(y: Tensor, x: Tensor) -> Tensor:
        return y * float(1 + 0 * y.detach().numpy().mean())

    assert regard.explain(built(after(read)), noise(2, TOKENS, WIDTH).double(), 1).receipt.notes == []


def test_memory_that_is_exchanged_is_a_lost_trail() -> None:
    def write(y: Tensor, x: Tensor) -> Tensor:
        y = y.detach()
        y.set_(x.flip(1).detach())
        return y

    with pytest.raises(TrailLost, match="lost at `set_`"):
        regard.explain(built(after(write)), noise(2, TOKENS, WIDTH).double(), 1, "rollout")


@pytest.mark.filterwarnings("ignore")
def test_a_kernel_of_ones_own_that_writes_in_place_ends_the_trail() -> None:
    @torch.library.custom_op("regard_tests::turn_", mutates_args=("y",))
    def turn(y: Tensor) -> None:
        y.copy_(y.flip(1))

    def write(y: Tensor, x: Tensor) -> Tensor:
        y = y.detach()
        turn(y)
        return y

    with pytest.raises(RegardError, match="turn_"):
        regard.explain(built(after(write)), noise(2, TOKENS, WIDTH).double(), 1, "rollout")
