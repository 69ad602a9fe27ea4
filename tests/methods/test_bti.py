"""Beyond Intuition and Transition Attention Maps: slow literal twins, and what they rest on in a recording."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard import Baseline
from regard.attribution.attention.head_and_key_weights import head_importance, value_norms
from regard.errors import Misuse, UnknownName
from regard.recording import record
from regard.recording.calls.residual import output_projection, state_norms
from regard.recording.edits import Edit
from support import bti_twin, families

torch.set_num_threads(1)

METHODS = ["bti_token", "bti_head", "transition_attention"]


class MeanPooled(nn.Module):
    """A ViT whose head reads the mean of the patches, as MAE's does."""

    def __init__(self, vit: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.vit = vit
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, families.CLASSES)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        x = self.vit(pixel_values).last_hidden_state
        return {"logits": self.head(self.norm(x[:, 1:].mean(1)))}


def vit_mean() -> families.Case:
    vit = families.transformers.ViTModel(
        families.transformers.ViTConfig(**families.SMALL, **families.IMAGE), add_pooling_layer=False
    )
    return families.picture_case(MeanPooled(vit), [("cls_token", 1)], row=None)


def case_of(name: str) -> families.Case:
    return vit_mean() if name == "vit_mean" else families.CASES[name]()


def explained(case: families.Case, method: str, **options: Any) -> regard.Explanation:
    torch.manual_seed(0)
    return regard.explain(case.model, case.inputs, case.target, method, **options)


def agree(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert set(found) == set(expected)
    scale = max(float(e.abs().max()) for e in expected.values())
    assert scale > 1e-4
    for name, e in expected.items():
        assert float((found[name].double() - e).abs().max()) <= tolerance * scale, name


# -- twins ------------------------------------------------------------------------------------------------------------

TWINS = ["vit", "vit_mean", "bert", "clip_vision", "roberta", "llama", "gpt2", "torch_encoder",
         "torch_encoder_sequence_first"]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TWINS)
def test_agrees_with_its_twin(name: str, method: str) -> None:
    case = case_of(name)
    agree(explained(case, method, steps=6).scores, bti_twin.explain(case, name, method, steps=6))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["vit", "vit_mean", "bert"])
def test_the_released_grid(name: str, method: str) -> None:
    """0..1 inclusive, each of weight 1/K, K = 20."""
    case = case_of(name)
    expected = bti_twin.explain(case, name, method, grid="linspace", steps=20)
    agree(explained(case, method, grid="linspace").scores, expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_the_released_way_for_bert(name: str, method: str) -> None:
    """What the first block is given is scaled: after the embeddings' LayerNorm."""
    case = case_of(name)
    options: dict[str, Any] = {"path": "embedding_output", "grid": "linspace", "steps": 5}
    agree(explained(case, method, **options).scores, bti_twin.explain(case, name, method, **options))
    other = explained(case, method, grid="linspace", steps=5).scores
    assert any(float((other[k] - v).abs().max()) > 1e-3 for k, v in explained(case, method, **options).scores.items())


@pytest.mark.parametrize("method", METHODS)
def test_start_layer_is_inclusive(method: str) -> None:
    case = case_of("vit")
    expected = bti_twin.explain(case, "vit", method, steps=3, start_layer=1)
    agree(explained(case, method, steps=3, start_layer=1).scores, expected)


def test_given_weights_of_the_read_rows() -> None:
    case = case_of("vit_mean")
    w = torch.rand(17, generator=torch.Generator().manual_seed(0))
    expected = bti_twin.explain(case, "vit_mean", "bti_token", steps=3, weights=w / w.sum())
    agree(explained(case, "bti_token", steps=3, readout=w).scores, expected)


def test_a_given_baseline_is_where_the_way_begins() -> None:
    """α x from x/2: the second half of the way, by a twin whose inputs are shifted."""
    case = case_of("vit")
    x = case.inputs["pixel_values"]
    t, w = torch.tensor([a for a, _ in bti_twin.points("gauss", 4)]), [b for _, b in bti_twin.points("gauss", 4)]
    G = sum(
        b
        * bti_twin.twins.run(families.Case(**{**vars(case), "inputs": {"pixel_values": x * (1 + float(a)) / 2}})).G[-1]
        for a, b in zip(t, w, strict=True)
    )
    found = explained(case, "transition_attention", steps=4, baseline=Baseline.of(x / 2))
    A = bti_twin.twins.run(case).A
    P = A[1].mean(1) @ (torch.eye(17) + A[0].mean(1))
    T = (P * G.clamp(min=0).mean(1))[:, 0]
    agree(found.scores, {"cls_token": T[:, :1].double(), "pixel_values": T[:, 1:].double()})
    assert any("(given)" in n for n in found.receipt.notes)


# -- batches, padding, budgets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_which_rows_another_sample_reads_has_no_say(method: str) -> None:
    """One sample reads its class token, the other one its patches, some more than others."""
    case = families.CASES["vit"]()
    patches = lambda h: h[:, 1:, 0] @ torch.linspace(0.1, 2.0, h.shape[1] - 1)  # noqa: E731
    mixed = lambda out: torch.cat([out[0][:1, 0, 0], patches(out[0][1:])])  # noqa: E731
    both = regard.explain(case.model.vit, case.inputs, mixed, method).scores["pixel_values"][1]
    second = {k: v[1:] for k, v in case.inputs.items()}
    alone = regard.explain(case.model.vit, second, lambda out: patches(out[0]), method).scores["pixel_values"][0]
    assert float((both - alone).abs().max()) <= 1e-5 * float(alone.abs().max())


LONG = [pytest.param(n, marks=pytest.mark.long) for n in ("t5", "vilt", "roberta", "gpt2_left")]


@pytest.mark.parametrize("name", ["vit", "vit_mean", "bert", "llama", "swin", *LONG])
def test_batch_is_single_and_padding_does_not_matter(name: str) -> None:
    case = case_of(name)
    together = {m: explained(case, m, steps=3).scores for m in METHODS}
    for b in range(families.BATCH):
        inputs, kept = families.single(case, b)
        torch.manual_seed(0)
        for method in METHODS:
            alone = regard.explain(case.model, inputs, case.target, method, steps=3).scores
            scale = max(float(s.abs().max()) for s in together[method].values())
            for stream, scores in alone.items():
                gap = together[method][stream][b : b + 1, kept[stream]] - scores
                assert float(gap.abs().max()) <= 1e-5 * scale, (method, stream)


@pytest.mark.parametrize("name", ["vit_mean", "bert", pytest.param("swin", marks=pytest.mark.long)])
def test_points_side_by_side_are_as_one_by_one(name: str) -> None:
    case = case_of(name)
    for method in METHODS:
        scant = explained(case, method, steps=5, memory_budget=1)
        agree(scant.scores, {k: v.double() for k, v in explained(case, method, steps=5).scores.items()})


# -- the edges --------------------------------------------------------------------------------------------------------


def recorded(case: families.Case) -> tuple[Any, Any]:
    torch.manual_seed(0)
    recording = record(case.model, case.inputs, branches=True)
    return recording, recording.gradients(case.target(recording.output))


@pytest.mark.parametrize("name", families.CASES)
def test_head_weights_sum_to_one_for_each_sample(name: str) -> None:
    recording, gradients = recorded(families.CASES[name]())
    for call in gradients.calls:
        total = head_importance(recording, call).sum(1)
        assert bool(((total - 1).abs() < 1e-5).all()) if bool(call.dO.any()) else not bool(total.any())


def test_importance_of_the_last_block_is_the_l1_norm_of_its_gradient() -> None:
    """Only CLS is read, and its row of A sums to 1: E|AᵀG| = ‖G_cls‖₁ / n²."""
    recording, gradients = recorded(families.vit())
    call = gradients.calls[-1]
    G = call.rows(torch.tensor([0])).G
    l1 = G.abs().sum((2, 3))
    torch.testing.assert_close(head_importance(recording, call), l1 / l1.sum(1, keepdim=True))


HOOKED = [n for n in families.CASES if not n.startswith("torch_encoder") and n != "fours_sequence_first"]
"""Families whose output projection is a module that runs (torch's own attention takes its weights and runs none)."""


@pytest.mark.parametrize("name", HOOKED)
def test_the_output_projection_gives_what_the_model_adds(name: str) -> None:
    """Σ_h O_h W_h is what the first linear layer after the call makes, less its bias (rows in any order)."""
    case = families.CASES[name]()
    recording, _ = recorded(case)
    for call, found in zip(recording.calls, projected(case), strict=True):
        W = output_projection(recording.branches, call)
        made = torch.einsum("ghnd,hdo->gno", call.canonical(call.output).detach(), W)
        assert made.shape[-1] == found.shape[-1]
        sizes = [t.flatten(0, -2).norm(dim=1).sort().values for t in (made, found)]
        torch.testing.assert_close(*sizes, rtol=1e-4, atol=1e-5)


def projected(case: families.Case) -> list[Tensor]:
    """What the first linear layer to run after each call makes, without bias."""
    outs: list[Tensor] = []
    calls: list[int] = []

    class Count(Edit):
        def call(self, call: Any) -> None:
            calls.append(call.index)

    def hook(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        if len(outs) < len(calls):
            outs.append(out.detach() - (0 if module.bias is None else module.bias.detach()))

    kinds = (nn.Linear, families.transformers.pytorch_utils.Conv1D)
    handles = [m.register_forward_hook(hook) for m in case.model.modules() if isinstance(m, kinds)]
    torch.manual_seed(0)
    record(case.model, case.inputs, edits=[Count()])
    for handle in handles:
        handle.remove()
    return outs


def test_states_of_another_stream_are_what_its_values_are_made_of() -> None:
    """T5's cross-attention: the keys' z are the encoder's output; of the decoder's own, the block's input."""
    case = families.t5()
    recording, _ = recorded(case)
    encoder = case.model.encoder(case.inputs["input_ids"], attention_mask=case.inputs["attention_mask"])
    cross = [c for c in recording.calls if c.shape[2] == 3 and c.shape[3] == 5]
    assert len(cross) == 2
    for call in cross:
        torch.testing.assert_close(
            state_norms(recording.branches, call, recording.zeros()), encoder.last_hidden_state.detach().norm(dim=-1)
        )
    words = case.model.decoder.embed_tokens(case.inputs["decoder_input_ids"]).detach()
    own = next(c for c in recording.calls if c.shape[2:] == (3, 3))
    torch.testing.assert_close(state_norms(recording.branches, own, recording.zeros()), words.norm(dim=-1))


class Block(nn.Module):
    """Attention by hand, joined with the stream in several ways."""

    def __init__(self, kind: str, width: int = 8) -> None:
        super().__init__()
        self.kind = kind
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out, self.more, self.ff = (nn.Linear(width, width) for _ in range(3))
        self.W = nn.Parameter(torch.randn(2, width // 2, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(y).chunk(3, -1))
        o = F.scaled_dot_product_attention(q, k, v)
        if self.kind == "einsum":
            return x + torch.einsum("bhnd,hdo->bno", o, self.W)
        heads = o.permute(0, 2, 3, 1) if self.kind == "interleaved" else o.transpose(1, 2)
        o = heads.flatten(2)
        if self.kind == "gated":
            o = o * y.sigmoid()
        made = o @ self.out.weight.T + self.out.bias if self.kind == "matrix product" else self.out(o)
        if self.kind == "adapter":
            made = made + self.more(o)
        if self.kind == "parallel":
            return self.ff(y) + made + x
        if self.kind == "parallel, stream first":
            return x + made + self.ff(y)
        if self.kind == "in place":
            x = x * 1
            z = self.norm(x)
            v = self.qkv(z).chunk(3, -1)[2].unflatten(-1, (2, -1)).transpose(1, 2)
            o = F.scaled_dot_product_attention(v, v, v).transpose(1, 2).flatten(2)
            x += self.out(o)
            return x
        return made if self.kind == "no residual" else x + made


class Model(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(kind) for _ in range(2))
        self.embed, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


def by_hand(kind: str) -> tuple[Model, Tensor]:
    torch.manual_seed(3)
    return Model(kind).eval(), torch.randn(2, 5, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "kind", ["plain", "einsum", "matrix product", "interleaved", "parallel", "parallel, stream first"]
)
def test_residual_stream_and_projection_however_they_are_written(kind: str, dtype: torch.dtype) -> None:
    model, x = (it.to(dtype) for it in by_hand(kind))
    recording = record(model, x, branches=True)
    state = model.embed(x).detach()
    for block, call in zip(model.blocks, recording.calls, strict=True):
        torch.testing.assert_close(state_norms(recording.branches, call, recording.zeros()), state.norm(dim=-1))
        v = block.qkv(block.norm(state)).chunk(3, -1)[2].unflatten(-1, (2, -1))
        if kind == "einsum":
            zW = torch.einsum("bnhd,hdo->bno", v, block.W)
        else:
            zW = (v.transpose(2, 3) if kind == "interleaved" else v).flatten(2) @ block.out.weight.T
        torch.testing.assert_close(value_norms(recording, call), (zW.norm(dim=-1) / state.norm(dim=-1)).detach())
        state = block(state).detach()


def test_a_residual_stream_that_is_written_over_is_read_before() -> None:
    model, x = by_hand("in place")
    recording = record(model, x, branches=True)
    torch.testing.assert_close(
        state_norms(recording.branches, recording.calls[1], recording.zeros()), model.embed(x).detach().norm(dim=-1)
    )


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("gated", r"output projection of attention call 1 \(blocks.1\) cannot be found: `mul` reads the call's output"),
        ("adapter", r"output projection of attention call 1 \(blocks.1\) cannot be found: 2 linear layers read"),
        ("no residual", r"residual stream of attention call 1 \(blocks.1\) cannot be found"),
    ],
)
def test_what_cannot_be_found_is_one_sentence(kind: str, says: str) -> None:
    model, x = by_hand(kind)
    with pytest.raises(Misuse, match=says):
        regard.explain(model, x, 1, "bti_token", steps=2)
    assert bool(regard.explain(model, x, 1, "bti_head", steps=2).scores["input"].any())


def test_unknown_ways_are_one_sentence() -> None:
    case = families.vit()
    with pytest.raises(UnknownName, match="unknown path 'pixels'"):
        explained(case, "bti_head", path="pixels")
    with pytest.raises(UnknownName, match="unknown grid"):
        explained(case, "bti_head", grid="even")
    with pytest.raises(Misuse, match="steps is a whole number from 1"):
        explained(case, "transition_attention", steps=0)
    with pytest.raises(Misuse, match="layer 7 is out of range"):
        explained(case, "transition_attention", start_layer=7)


# -- the receipt ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_receipt_counts_and_measures(method: str) -> None:
    case = families.lxmert()
    receipt = explained(case, method, steps=7).receipt
    assert receipt.passes == 2 + 2 * 7
    assert receipt.site == "attention[last]"
    assert not receipt.decomposes
    assert bool((receipt.attribution_target.abs() > 0).all())
    assert any("does not reach visual_feats" in n for n in receipt.notes)
    assert any("7 points (gauss)" in n for n in receipt.notes)


def test_tam_means_two_things():
    with pytest.raises(UnknownName, match=r"transition_attention.*token_activation_map"):
        regard.explain(families.CASES["vit"]().model, families.CASES["vit"]().inputs, 1, "tam")
