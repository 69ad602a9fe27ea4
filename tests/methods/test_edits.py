"""Edits and backward rules of a run, held against the model that is built so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.recording import record
from regard.recording.backward import Correctable, Correction
from regard.recording.edits import LeaveOut, MaskKeys, Probabilities, Replace, ReplaceBlock, Scale
from regard.recording.one_head import OneHead
from support import capture, families
from support.as_found import assert_unchanged, state
from support.every_method import assert_close, case_of

torch.set_num_threads(1)


def logits(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out["logits"] if "logits" in out else out["question_answering_score"]


def recorded(case: families.Case, *edits: Any) -> Any:
    torch.manual_seed(0)
    return record(case.model, case.inputs, edits=edits)


EDITED = ["vit", "bert", "gpt2", "gpt2_left", "llama", "t5", "lxmert", "swin", "torch_encoder",
          *[f"fours_{x}" for x in families.LAYOUTS]]  # fmt: skip


@pytest.mark.parametrize("name", EDITED)
def test_edits_that_change_nothing(name: str) -> None:
    """Scale(1), Probabilities(identity), Correctable(): outputs and gradients are the model's own."""
    case = case_of(name)
    plain = recorded(case)
    expected = plain.gradients(case.target(plain.output))
    ones: list[Any] = [Scale(1.0), Probabilities(lambda A, call: A), Correctable()]
    for edit in ones:
        run = recorded(case, edit)
        size = max(1.0, float(logits(plain.output).detach().abs().max()))
        torch.testing.assert_close(logits(run.output), logits(plain.output), rtol=1e-5, atol=1e-6 * size)
        found = run.gradients(case.target(run.output))
        for stream, g in expected.inputs.items():
            scale = float(g.abs().max())
            gap = float((found.inputs[stream] - g).abs().max())
            assert gap <= 1e-4 * scale + 1e-7, (type(edit).__name__, stream)


@pytest.mark.parametrize("name", EDITED)
def test_scale_zero_silences_calls(name: str) -> None:
    case = case_of(name)
    run = recorded(case, Scale(0.0))
    assert all((c.output == 0).all() for c in run.calls)
    one = recorded(case, Scale(0.0, [1]))
    assert [bool((c.output == 0).all()) for c in one.calls][:2] == [False, True]


def test_scale_zero_equals_zeroed_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("vit")
    found = logits(recorded(case, Scale(0.0, [1])).output)
    real, count = F.scaled_dot_product_attention, []

    def second_is_zero(*args: Any, **kwargs: Any) -> Tensor:
        count.append(1)
        return real(*args, **kwargs) * (len(count) != 2)

    monkeypatch.setattr(F, "scaled_dot_product_attention", second_is_zero)
    with torch.no_grad():
        torch.testing.assert_close(found, case.model(**case.inputs).logits)


@pytest.mark.parametrize("name", ["vit", "bert_full", "llama", "torch_encoder"])
def test_probabilities_can_be_replaced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row looks at the first key only."""
    case = case_of(name)

    def first(A: Tensor, call: Any) -> Tensor:
        assert A.shape == call.shape
        return F.one_hot(torch.zeros(A.shape[:-1], dtype=torch.int64), A.shape[-1]).float()

    found = logits(recorded(case, Probabilities(first)).output)

    def hand(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        return value[..., :1, :].expand(*query.shape[:-1], value.shape[-1])

    monkeypatch.setattr(F, "scaled_dot_product_attention", hand)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            plain = case.model(**case.inputs) if isinstance(case.inputs, dict) else case.model(case.inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    torch.testing.assert_close(found, logits(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bert_full", "gpt2_right", "lxmert"])
def test_masked_keys_are_the_attention_mask(name: str) -> None:
    if name == "gpt2_right":
        case = families.gpt2_left()
        case.inputs = {"input_ids": families.ids(2, 6)}
        case.target = lambda out: out["logits"][:, 2, 7]
    else:
        case = families.CASES[name]()
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1]])[:, : case.streams["input_ids"]]
    case.inputs = {k: v for k, v in case.inputs.items() if k not in ("attention_mask", "position_ids")}
    plain = recorded(case)
    hidden = torch.zeros(2, plain.rows, dtype=torch.bool)
    hidden[:, plain.stream("input_ids").rows] = mask == 0
    found = case.target(recorded(case, MaskKeys(hidden)).output)
    inputs = case.inputs | {"attention_mask": mask}
    if name == "gpt2_right":
        inputs["position_ids"] = torch.arange(6).expand(2, 6)
    with torch.no_grad():
        expected = case.target(case.model(**inputs))
    assert float((case.target(plain.output) - expected).detach().abs().max()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2", "torch_encoder"])
def test_one_head_over_the_full_width(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(name)
    found = logits(recorded(case, OneHead()).output)
    assert float((found - logits(recorded(case).output)).detach().abs().max()) > 1e-3

    def hand(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
             is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
        heads = query.shape[1]
        q, k, v = (t.transpose(1, 2).flatten(2) for t in (query, key, value))
        mask = None if attn_mask is None else attn_mask[:, 0]
        O = capture.looked(capture.eager(q, k, mask, is_causal, (query.shape[-1] * heads) ** -0.5), -1) @ v
        return O.unflatten(-1, (heads, -1)).transpose(1, 2)

    monkeypatch.setattr(F, "scaled_dot_product_attention", hand)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            plain = case.model(**case.inputs) if isinstance(case.inputs, dict) else case.model(case.inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    torch.testing.assert_close(found, logits(plain), rtol=1e-5, atol=1e-6)


FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "positive": lambda G: (G > 0).float(),
    "negative": lambda G: (G < 0).float(),
    "absolute": torch.sign,
}


class RuledAttention(torch.autograd.Function):
    """formulas.md section 4 by hand: G′ = M⊙G enters dS = A⊙(G′ − Σ_k A G′); dV′ = (A⊙M)ᵀ dO."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, value: Tensor, factor: Callable[[Tensor], Tensor]) -> Tensor:
        A = capture.SOFTMAX(scores, -1)
        ctx.save_for_backward(A, value)
        ctx.factor = factor
        return A @ value

    @staticmethod
    def backward(ctx: Any, dO: Tensor) -> tuple[Tensor, Tensor, None]:
        A, value = ctx.saved_tensors
        G = dO @ value.transpose(-1, -2)
        M = ctx.factor(G)
        changed = M * G
        dS = A * (changed - (A * changed).sum(-1, keepdim=True))
        return dS, (A * M).transpose(-1, -2) @ dO, None


@pytest.mark.parametrize("sign", FACTORS)
@pytest.mark.parametrize("name", ["vit", "bert", "llama"])
def test_correctable_calls_give_the_complete_correction(name: str, sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(name)
    run = recorded(case, Correctable(Correction(sign)))
    stream = next(iter(case.inputs))
    found = run.gradients(case.target(run.output)).inputs[stream]
    plain = recorded(case)
    before = plain.gradients(case.target(plain.output)).inputs[stream]

    def hand(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
             is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
        each = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(each, 1) for t in (key, value))
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
        if attn_mask is not None:
            scores = torch.where(attn_mask, scores, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return RuledAttention.apply(scores, value, FACTORS[sign])

    monkeypatch.setattr(F, "scaled_dot_product_attention", hand)
    expected = twins_gradient(case, stream)
    assert float((expected - before).abs().max()) > 1e-3 * float(before.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def twins_gradient(case: families.Case, stream: str) -> Tensor:
    """Plain autograd at pixels or at word embeddings."""
    kept: list[Tensor] = []
    inputs = dict(case.inputs)
    handle = None
    if stream in case.embeddings:

        def keep(module: nn.Module, args: Any, out: Tensor) -> None:
            kept.append(out)

        handle = case.embeddings[stream].register_forward_hook(keep)
    else:
        kept.append(inputs[stream].clone().requires_grad_())
        inputs[stream] = kept[0]
    try:
        return torch.autograd.grad(case.target(case.model(**inputs)).sum(), kept[0])[0]
    finally:
        if handle is not None:
            handle.remove()


def test_replaced_inputs_and_word_embeddings_are_used() -> None:
    case = case_of("vit")
    other = families.noise(2, 3, 16, 16, seed=21)
    edit = Replace({"pixel_values": other})
    run = recorded(case, edit)
    assert edit.used == {"pixel_values"}
    with torch.no_grad():
        torch.testing.assert_close(logits(run.output), case.model(pixel_values=other).logits)

    case = case_of("bert")
    other = families.noise(2, 6, 16, seed=22)
    edit = Replace({"input_ids": other})
    run = recorded(case, edit)
    assert edit.used == {"input_ids"}
    with torch.no_grad():
        mask = case.inputs["attention_mask"]
        torch.testing.assert_close(logits(run.output), case.model(inputs_embeds=other, attention_mask=mask).logits)
    assert set(run.leaves) == {"input_ids"}


def test_a_replaced_block_is_used() -> None:
    case = case_of("vit")
    seen = regard.inspect(case.model, case.inputs)
    assert [(len(b.calls), b.visit) for b in seen.blocks] == [(1, 0), (1, 0)]
    value = families.noise(2, 17, 16, seed=23)
    run = recorded(case, ReplaceBlock(seen.blocks[0].module, value))
    block = case.model.get_submodule(seen.blocks[0].module)
    handle = block.register_forward_hook(lambda m, i, out: (value, *out[1:]) if isinstance(out, tuple) else value)
    try:
        with torch.no_grad():
            expected = case.model(**case.inputs).logits
    finally:
        handle.remove()
    torch.testing.assert_close(logits(run.output), expected)
    assert float((expected - logits(recorded(case).output)).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_an_edited_run_leaves_the_model_as_found(name: str) -> None:
    case = families.CASES[name]()
    before = state(case.model, case.inputs)
    for edit in (Scale(0.0), Probabilities(lambda A, call: A), Correctable(Correction("absolute")), OneHead()):
        recorded(case, edit)
    torch.set_rng_state(before["rng"])
    assert_unchanged(before, state(case.model, case.inputs))


def test_a_compiled_model_is_watched_inside_and_compared_as_compiled() -> None:
    case = families.vit()
    runs: list[int] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            runs.append(1)
            return graph.forward(*args)

        return run

    compiled = torch.compile(case.model, backend=backend)
    exp = regard.explain(compiled, case.inputs, case.target)
    expected = regard.explain(case.model, case.inputs, case.target)
    assert runs == []
    assert_close(exp.scores, expected.scores, 1e-6)
    assert exp.receipt.faithful <= 1e-6
    assert runs


def test_a_row_that_has_lost_all_its_keys_does_not_turn_to_padding() -> None:
    """T5 hides padding by a large number that is added, and a sample's last word is left out with all others."""
    case = families.CASES["t5"]()
    other = torch.where(case.hidden["input_ids"], 17, case.inputs["input_ids"])
    gone = torch.zeros(2, record(case.model, case.inputs).rows, dtype=torch.bool)
    gone[:, record(case.model, case.inputs).stream("input_ids").rows] = True
    ys = [case.target(record(case.model, {**case.inputs, "input_ids": ids}, edits=[LeaveOut(gone)]).output)
          for ids in (case.inputs["input_ids"], other)]  # fmt: skip
    torch.testing.assert_close(ys[0], ys[1], rtol=0, atol=0)
