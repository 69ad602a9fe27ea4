"""The gradient of x · σ(c · x) in one step is torch's own; values are the model's to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import regard
from regard.recording.gate_gradient import Gated
from regard.recording.own_gradients import operation
from regard.recording.row_gradient import saved_elsewhere
from support.dual_encoders import of_clip

pytestmark = pytest.mark.skipif(saved_elsewhere(), reason="this torch does not say where what is saved goes")


class Ours(TorchFunctionMode):
    """Operations with their gradients from us."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return operation(func, args, kwargs or {})


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "transformers": lambda x: x * torch.sigmoid(1.702 * x),
    "gate first": lambda x: torch.sigmoid(x * 1.702) * x,
    "method": lambda x: x.mul((x * 0.5).sigmoid()),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "another x": lambda x: x.clone() * torch.sigmoid(1.702 * x),
    "not scaled": lambda x: x * torch.sigmoid(x),
    "a product that is written into": lambda x: x * torch.sigmoid((1.702 * x).add_(1.0)),
    "by a tensor": lambda x: x * torch.sigmoid(torch.tensor(1.702) * x),
}


@contextmanager
def gated() -> Iterator[list[int]]:
    """How often the gradient was ours."""
    count, plain = [0], Gated.forward

    def forward(*args: Any) -> Any:
        count[0] += 1
        return plain(*args)

    Gated.forward = staticmethod(forward)
    try:
        yield count
    finally:
        Gated.forward = staticmethod(plain)


def given(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)


def made(way: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, int]:
    with gated() as count, Ours():
        return way(x), count[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("read", ["all", "one", "none"])
@pytest.mark.parametrize("turned", [False, True])
def test_values_are_the_models_own_and_gradients_are_torchs(way, read, turned):
    x = given(3, 7, 6)
    seen = x.transpose(0, 1) if turned else x
    found, theirs = made(WAYS[way], seen)[0], WAYS[way](seen)
    assert torch.equal(found, theirs)
    assert made(WAYS[way], seen)[1] == 1
    g = torch.zeros_like(theirs)
    if read == "all":
        g += torch.randn_like(g)
    elif read == "one":
        g[1, 2] = torch.randn(6, dtype=torch.float64)
    (a,), (b,) = torch.autograd.grad(found, x, g), torch.autograd.grad(theirs, x, g)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", OTHERS)
def test_other_products_are_torchs(way):
    x = given(4, 5)
    found, count = made(OTHERS[way], x)
    assert count == 0
    (a,), (b,) = (torch.autograd.grad(y.sum(), x) for y in (found, OTHERS[way](x)))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_what_is_written_into_between_is_not_taken_for_what_it_was():
    def way(x: Tensor) -> Tensor:
        y = x * 1.0
        gate = torch.sigmoid(1.702 * y)
        y += 1.0
        return y * gate

    x = given(4, 5)
    found, count = made(way, x)
    assert count == 0
    assert torch.equal(found, way(x))
    assert made(lambda x: x * torch.sigmoid(1.702 * x).clamp_(max=0.5), x)[1] == 0  # torch refuses its gradient


def test_a_gradient_of_the_gradient():
    x = given(4, 5)

    def second(y: Tensor) -> Tensor:
        (at_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (found,) = torch.autograd.grad(at_x.square().sum(), x)
        return found

    way = WAYS["transformers"]
    torch.testing.assert_close(second(made(way, x)[0]), second(way(x)), rtol=0, atol=1e-12)


def test_many_gradients_at_once_are_those_of_each():
    x = given(5, 3)
    y = made(WAYS["transformers"], x)[0][:, 0]
    (found,) = torch.autograd.grad(y, x, torch.eye(5, dtype=torch.float64), is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y[i], x, retain_graph=True)[0] for i in range(5)]
    torch.testing.assert_close(found, torch.stack(each), rtol=0, atol=1e-12)


def test_where_it_is_left_to_torch():
    way = WAYS["transformers"]
    assert made(way, given(4, 5).detach())[1] == 0
    with torch.no_grad():
        assert made(way, given(4, 5))[1] == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert made(way, given(4, 5))[1] == 0
    with torch.autograd.graph.save_on_cpu():
        assert made(way, given(4, 5))[1] == 0


def test_a_recorded_clip_runs_so():
    case = of_clip()
    with gated() as count:
        recorded = regard.record(case.model, case.inputs)
    assert count[0] == 6  # each block of the two towers
    found = recorded.gradients(case.y(recorded.output)).inputs["pixel_values"]
    x = case.inputs["pixel_values"].clone().requires_grad_()
    (g,) = torch.autograd.grad(case.y(case.model(**case.inputs | {"pixel_values": x})).sum(), x)
    torch.testing.assert_close(found, g, rtol=1e-9, atol=1e-12)
