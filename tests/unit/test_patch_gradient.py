"""The gradient of a patch embedding by a product of matrices is that of torch's own convolution; nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.recording.patch_gradient import by_patches
from support import families

CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "frames": (nn.Conv1d(3, 5, 4, 4), (2, 3, 16)),
    "a picture": (nn.Conv2d(3, 8, 4, 4), (2, 3, 16, 16)),
    "a picture with a rest": (nn.Conv2d(3, 8, 4, 4), (2, 3, 17, 18)),
    "no square": (nn.Conv2d(3, 8, (2, 3), (2, 3), bias=False), (2, 3, 8, 9)),
    "a film": (nn.Conv3d(2, 5, (2, 3, 4), (2, 3, 4)), (2, 2, 5, 6, 9)),
}
OTHERS: dict[str, nn.Module] = {
    "overlapping": nn.Conv2d(3, 8, 4, 2),
    "apart": nn.Conv2d(3, 8, 2, 4),
    "padded": nn.Conv2d(3, 8, 4, 4, padding=1),
    "padded by a word": nn.Conv2d(3, 8, 1, 1, padding="same"),
    "dilated": nn.Conv2d(3, 8, 2, 2, dilation=2),
    "in groups": nn.Conv2d(3, 6, 4, 4, groups=3),
}


def with_ours(conv: Any, x: Tensor) -> Tensor | None:
    func = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    return by_patches(func, (x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups), {})


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_values_are_the_models_own_and_gradients_are_torchs(name):
    conv, shape = CONVOLUTIONS[name]
    conv = conv.double()
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    theirs, ours = conv(x), with_ours(conv, x)
    assert ours is not None
    assert torch.equal(ours, theirs)
    g = torch.randn_like(theirs)
    at = [x, *conv.parameters()]
    for a, b in zip(torch.autograd.grad(ours, at, g), torch.autograd.grad(theirs, at, g), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OTHERS)
def test_other_convolutions_are_torchs(name):
    assert with_ours(OTHERS[name], torch.randn(2, 3, 16, 16, requires_grad=True)) is None


def test_without_a_gradient_nothing_is_done():
    conv, shape = CONVOLUTIONS["a picture"]
    conv = conv.float()
    assert with_ours(conv, torch.randn(*shape)) is None
    x = torch.randn(*shape, requires_grad=True)
    with torch.no_grad():
        assert with_ours(conv, x) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert with_ours(conv, x) is None


def test_gradients_at_pixels_are_those_of_the_plain_model():
    case = families.CASES["vit"]()
    x = case.inputs["pixel_values"].clone().requires_grad_()
    y = case.model(pixel_values=x).logits[:, 1]
    (g,) = torch.autograd.grad(y.sum(), x)
    recorded = regard.record(case.model, case.inputs)
    found = recorded.gradients(recorded.output.logits[:, 1])
    torch.testing.assert_close(found.inputs["pixel_values"], g, rtol=1e-5, atol=1e-7)
    assert torch.equal(recorded.output.logits, case.model(**case.inputs).logits)


def test_a_model_that_writes_over_its_patches_runs():
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut = nn.Conv2d(3, 8, 4, 4)
            self.places = nn.Parameter(torch.randn(16, 8))
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.cut(x).flatten(2).transpose(1, 2)
            x += self.places
            return self.head((x + self.attend(x, x, x)[0]).mean(1))

    torch.manual_seed(0)
    model, x = Added().eval(), torch.randn(2, 3, 16, 16)
    exp = regard.explain(model, x, 1, "input_x_gradient", measure="full")
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    patches = F.avg_pool2d((x * g).sum(1), 4) * 16
    torch.testing.assert_close(exp.scores["input"], patches.flatten(1), rtol=1e-4, atol=1e-6)
    assert exp.receipt.faithful == 0
