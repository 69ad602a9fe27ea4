"""The gradient of a linear layer by the rows that have one is torch's own; values are the model's to the bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.recording.row_gradient import LinearByRows, by_rows, rows_that_count, saved_elsewhere
from support import families

pytestmark = pytest.mark.skipif(saved_elsewhere(), reason="this torch does not say where what is saved goes")
SHAPES = {"rows": (7, 6), "tokens": (3, 7, 6), "frames": (2, 2, 5, 6), "one row": (1, 6)}


def ours(layer: nn.Linear, x: Tensor) -> Tensor | None:
    return by_rows(F.linear, (x, layer.weight, layer.bias), {})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("read", ["all", "one", "none", "second feature"])
def test_values_are_the_models_own_and_gradients_are_torchs(name, read, bias):
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=bias).double()
    x = torch.randn(*SHAPES[name], dtype=torch.float64, requires_grad=True)
    found, theirs = ours(layer, x), layer(x)
    assert found is not None
    assert torch.equal(found, theirs)
    g = torch.zeros_like(theirs)
    flat = g.view(-1, 4)
    if read == "all":
        flat.copy_(torch.randn_like(flat))
    elif read == "one":
        flat[len(flat) // 2] = torch.randn(4, dtype=torch.float64)
    elif read == "second feature":
        flat[0, 1] = 2.0
    (a,), (b,) = torch.autograd.grad(found, x, g), torch.autograd.grad(theirs, x, g)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("turned", [True, False])
def test_what_a_layer_gives_can_be_written_into(turned):
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    x = torch.randn(3, 5, 6, requires_grad=True)
    given = x.transpose(0, 1) if turned else x

    def written(y: Tensor) -> Tensor:
        y[..., :2] += 1.0
        y *= 2.0
        (g,) = torch.autograd.grad(y.square().sum(), x)
        return g

    mine = ours(layer, given)
    assert mine is not None
    torch.testing.assert_close(written(mine), written(layer(given)))


def test_rows_without_a_gradient_are_not_multiplied():
    g = torch.zeros(9, 4)
    g[2, 3], g[5, 0] = 1.0, -1.0
    found = rows_that_count(g)
    assert found is not None
    assert found.tolist() == [2, 5]
    assert rows_that_count(torch.ones(9, 4)) is None
    late = torch.zeros(9, 4)
    late[:, 2] = 1.0
    assert rows_that_count(late) is None


def test_a_gradient_of_the_gradient_goes_through_rows_of_zero():
    layer = nn.Linear(3, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def second(y: Tensor) -> Tensor:
        g = torch.zeros_like(y, requires_grad=True)
        (at_x,) = torch.autograd.grad(y, x, g, create_graph=True)
        (found,) = torch.autograd.grad(at_x.sum(), g)
        return found

    mine = ours(layer, x)
    assert mine is not None
    torch.testing.assert_close(second(mine), second(layer(x)), rtol=0, atol=1e-12)


def test_many_gradients_at_once_are_those_of_each():
    layer = nn.Linear(3, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    made = ours(layer, x)
    assert made is not None
    y = made[:, 0]
    (found,) = torch.autograd.grad(y, x, torch.eye(5, dtype=torch.float64), is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y[i], x, retain_graph=True)[0] for i in range(5)]
    torch.testing.assert_close(found, torch.stack(each), rtol=0, atol=1e-12)


def test_other_layers_are_torchs():
    layer = nn.Linear(6, 4)
    x = torch.randn(3, 6, requires_grad=True)
    assert ours(layer, torch.randn(3, 6)) is None
    made = torch.randn(4, 6, requires_grad=True) * 2  # weights that a model computes have a gradient of their own
    assert by_rows(F.linear, (x, made), {}) is None
    with torch.no_grad():
        assert ours(layer, x) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(layer, x) is None
    with torch.autograd.graph.save_on_cpu():
        assert ours(layer, x) is None


def test_a_recorded_model_runs_so_and_no_parameter_gets_a_gradient():
    case = families.CASES["vit"]()
    recorded = regard.record(case.model, case.inputs)
    y = recorded.output.logits[:, 1]
    nodes, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            todo += [n for n, _ in node.next_functions]
    assert any(getattr(type(n), "_forward_cls", None) is LinearByRows for n in nodes)
    found = recorded.gradients(y).inputs["pixel_values"]
    x = case.inputs["pixel_values"].clone().requires_grad_()
    (g,) = torch.autograd.grad(case.model(pixel_values=x).logits[:, 1].sum(), x)
    torch.testing.assert_close(found, g, rtol=1e-5, atol=1e-7)
    assert torch.equal(recorded.output.logits, case.model(**case.inputs).logits)
    assert all(p.grad is None for p in case.model.parameters())
