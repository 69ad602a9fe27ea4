"""Receipts say what was done, of this sample and for its own cause, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard import Site
from regard.errors import ModelError
from support.tiny import noise, strong

D, HEADS = 8, 2


class SoftmaxKernel(torch.autograd.Function):
    """Attention with a backward pass of its own, as one writes to save memory."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        A = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        ctx.save_for_backward(q, k, v, A)
        return A @ v

    @staticmethod
    def backward(ctx: Any, dO: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, A = ctx.saved_tensors
        G = dO @ v.mT
        dS = A * (G - (A * G).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
        return dS @ k, dS.mT @ q, A.mT @ dO


class EinsumKernel(SoftmaxKernel):
    """The same in one letter an axis."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        A = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5, dim=-1)
        ctx.save_for_backward(q, k, v, A)
        return torch.einsum("bhij,bhjd->bhid", A, v)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


class Net(nn.Module):
    """Two residual layers; `pool` tells what is read, `frozen` how many of the first layers run without a graph."""

    def __init__(self, attend: Any = plain, pool: Any = None, frozen: int = 0, inference: bool = False) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(D, 3 * D) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(D, D) for _ in range(2))
        self.head = nn.Linear(D, 3)
        self.attend, self.pool, self.frozen, self.inference = attend, pool or (lambda x: x[:, 0]), frozen, inference

    def layer(self, i: int, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv[i](x).chunk(3, -1))
        return x + self.out[i](self.attend(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(2):
            if i < self.frozen:
                with torch.inference_mode() if self.inference else torch.no_grad():
                    x = self.layer(i, x)
            else:
                x = self.layer(i, x)
        return self.head(self.pool(x.clone() if self.inference else x))


# -- no note of what is not so ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [SoftmaxKernel, EinsumKernel])
def test_a_function_of_its_own_is_not_cut_out_of_the_graph(kernel: Any) -> None:
    x = noise(2, 5, D)
    own, usual = (regard.explain(strong(Net(a)), x, 1) for a in (kernel.apply, plain))
    assert torch.allclose(own.scores["input"], usual.scores["input"], atol=1e-6)
    assert own.receipt.notes == usual.receipt.notes == []


def test_a_layer_that_is_cut_out_is_said_to_be() -> None:
    exp = regard.explain(strong(Net(frozen=1)), noise(2, 5, D), 1)
    assert exp.receipt.notes == ["attention calls 0 are cut out of the graph (no_grad or detach): they count as zero"]


def test_what_is_mixed_outside_attention_is_no_note_for_a_gradient() -> None:
    class Convolved(Net):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(D, D, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(0, x)
            return self.head(self.layer(1, x + self.conv(x.mT).mT)[:, 0])

    followed, free = regard.explain(strong(Convolved()), noise(2, 5, D), 1, ["gae", "input_x_gradient"])
    assert any("mixed" in n for n in followed.receipt.notes)
    assert free.receipt.notes == []


# -- complete: whether y is a function of the site alone ----------------------------------------------------------------

AT_ATTENTION = (
    "gae",
    "corrected_attention",
    "heterogenous",
    "attention_grad_cam",
    "bti_head",
    "bti_token",
    "transition_attention",
)


def test_attention_is_never_a_frontier() -> None:
    from support import families

    case = families.CASES["vit"]()
    for method in AT_ATTENTION:
        receipt = regard.explain(
            case.model, case.inputs, 1, method, **({"steps": 2} if method.startswith(("bti", "tr")) else {})
        ).receipt
        assert receipt.site.startswith("attention")
        assert not receipt.complete, method
    for site, whole in (
        (Site.attention(0), False),
        (Site.attention(joint=True), False),
        (Site.input(), True),
        (Site.block(0), True),
    ):
        receipt = regard.explain(case.model, case.inputs, 1, "integrated_gradients", site=site, steps=2).receipt
        assert receipt.complete == whole


# -- the read-out ---------------------------------------------------------------------------------------------------------


def weighted_mean(x: Tensor) -> Tensor:
    return (x * torch.tensor([10.0, 1, 1, 1, 1])[:, None]).mean(1)


POOLS = {
    "weighted mean": weighted_mean,
    "sum of squares": lambda x: x.pow(2).mean(1),
    "largest": lambda x: x.max(1).values,
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("method", ["bti_head", "transition_attention"])
def test_bti_says_that_it_weighs_pooled_rows_alike(method: str, pool: str) -> None:
    model, x = strong(Net(pool=POOLS[pool])), noise(1, 5, D)
    exp = regard.explain(model, x, 1, method, steps=2)
    read = int(exp.receipt.readout.split()[0])
    assert exp.receipt.readout == f"{read} tokens of input, weighted alike, found from the gradient"
    assert "gradient norm" in regard.explain(model, x, 1).receipt.readout
    given = regard.explain(model, x, 1, method, steps=2, readout=torch.ones(1, 5) / 5)
    assert given.receipt.readout == "given weights, as asked"
    if read == 5:
        assert torch.allclose(exp.scores["input"], given.scores["input"], atol=1e-6)


def test_a_method_without_a_read_out_says_so() -> None:
    from support import families

    case = families.CASES["vit"]()
    readouts = {e.method: e.receipt.readout for e in regard.explain(case.model, case.inputs, 1, ["gradient", "gae"])}
    assert readouts == {"gradient": "not used by this method", "gae": "cls_token, found from the gradient"}


# -- a frozen backbone ----------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """torch's own encoder, frozen in the forward pass, and a trained head (linear probing)."""

    def __init__(self, cut: str) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(D, HEADS, 16, batch_first=True)
        self.body, self.head, self.cut = (
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(D, 3),
            cut,
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.cut == "detach":
            return self.head(self.body(x).detach()[:, 0])
        with torch.no_grad():
            z = self.body(x)
        return self.head(z[:, 0])


FROZEN = {
    "no_grad around torch's encoder": lambda: Encoder("no_grad"),
    "no_grad around layers of one's own": lambda: Net(frozen=2),
    "inference_mode around them": lambda: Net(frozen=2, inference=True),
}


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_backbone_is_named_as_the_cause(name: str) -> None:
    model, x = strong(FROZEN[name]()), noise(2, 5, D)
    for method, more in (("gae", {}), ("gae", {"readout": "cls"}), ("rollout", {}), ("bti_head", {"steps": 2})):
        with pytest.raises(ModelError, match=r"cuts its attention out of the graph .*no_grad.*remove that"):
            regard.explain(model, x, 1, method, **more)
    with pytest.raises(ModelError, match="the model's own forward cuts it off"):
        regard.explain(model, x, 1, "input_x_gradient")


def test_maps_without_gradients_need_no_graph_where_the_row_is_named() -> None:
    frozen, free = strong(Net(frozen=2)), strong(Net())
    x = noise(2, 5, D)
    for method in ("raw_attention", "rollout"):
        a, b = (regard.explain(m, x, 1, method, readout="cls").scores["input"] for m in (frozen, free))
        assert torch.allclose(a, b, atol=1e-6)


def test_detached_states_are_a_cut_too() -> None:
    with pytest.raises(ModelError, match=r"no_grad|detach|constant"):
        regard.explain(strong(Encoder("detach")), noise(2, 5, D), 1)


@pytest.mark.parametrize("model", [Net(SoftmaxKernel.apply), Net(frozen=1)], ids=["a function of its own", "no_grad"])
def test_a_mask_that_no_gradient_reaches_is_refused(model: Net) -> None:
    with pytest.raises(ModelError, match="no gradient reaches a mask in attention calls 0"):
        regard.explain(strong(model), noise(1, 5, D), 1, "attention_mask", steps=2)


def test_bti_refuses_where_gradients_are_switched_off_around_the_last_attention() -> None:
    with pytest.raises(ModelError, match="switches gradients off around it"):
        regard.explain(strong(Net(SoftmaxKernel.apply)), noise(1, 5, D), 1, "bti_head", steps=2)
