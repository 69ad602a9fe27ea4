"""Weights and values that are put into a run, held against models that are built so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regard.recording import record
from regard.recording.edits import Imposed, uniform
from support import families
from support.as_found import assert_unchanged, prepared, state
from support.every_method import case_of

torch.set_num_threads(1)
NAMES = ["vit", "gpt2_left", "llama", "t5", "swin", "fours_heads"]


def logits(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out["logits"] if "logits" in out else out["question_answering_score"]


def recorded(case: families.Case, *edits: Any) -> Any:
    torch.manual_seed(0)
    return record(case.model, case.inputs, edits=edits)


def of_calls(recording: Any) -> tuple[Any, Any]:
    """A and V of every call of a run, by its number."""
    A = {c.index: c.rows(torch.arange(c.shape[2])).A for c in recording.calls}
    V = {c.index: c.repeated(c.v).detach() for c in recording.calls}
    return lambda c: A[c.index], lambda c: V[c.index]


@pytest.mark.parametrize("name", NAMES)
def test_the_attention_and_values_of_the_same_run_change_nothing(name: str) -> None:
    case = case_of(name)
    plain = recorded(case)
    A, V = of_calls(plain)
    for edit in (Imposed(A), Imposed(values=V), Imposed(A, V), Imposed()):
        found = logits(recorded(case, edit).output)
        torch.testing.assert_close(found, logits(plain.output), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bert_full", "gpt2_left", "llama"])
def test_uniform_attention_is_the_mean_of_what_the_mask_lets_through(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(name)
    found = logits(recorded(case, Imposed(uniform)).output)

    def hand(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, dropout_p: Any = 0.0, **kwargs: Any) -> Tensor:
        v = v.repeat_interleave(q.shape[-3] // v.shape[-3], -3)
        out = torch.zeros(*q.shape[:-1], v.shape[-1])
        mask = torch.ones(1, 1, q.shape[-2], v.shape[-2], dtype=torch.bool) if attn_mask is None else attn_mask
        mask = mask if mask.dtype == torch.bool else mask > -1e4
        mask = mask.tril() if kwargs.get("is_causal") else mask
        mask = mask.expand(*q.shape[:-1], v.shape[-2])
        for at in torch.cartesian_prod(*map(torch.arange, q.shape[:-1])).tolist():
            seen = v[at[0], at[1]][mask[tuple(at)]]
            out[tuple(at)] = seen.mean(0) if len(seen) else 0.0
        return out

    monkeypatch.setattr(F, "scaled_dot_product_attention", hand)
    with torch.no_grad():
        expected = case.model(**case.inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_attention_of_one_sample_with_the_values_of_another() -> None:
    """One call of two samples, its values exchanged, against the product written out."""
    case = case_of("vit")
    plain = recorded(case)
    A, V = of_calls(plain)
    run = recorded(case, Imposed(A, lambda c: V(c).flip(0), calls=[0]))
    first = plain.calls[0]
    expected = torch.stack([A(first)[b] @ V(first)[1 - b] for b in range(2)])
    torch.testing.assert_close(run.calls[0].canonical(run.calls[0].output), expected)


@pytest.mark.parametrize("name", ["vit", "lxmert"])
def test_leaves_no_trace(name: str) -> None:
    case = prepared(name)
    before = state(case.model, case.inputs)
    with torch.no_grad():
        record(case.model, case.inputs, edits=[Imposed(uniform)])
    assert_unchanged(before, state(case.model, case.inputs))
    with pytest.raises(ZeroDivisionError):
        record(case.model, case.inputs, edits=[Imposed(lambda c: 1 / 0)])
    assert_unchanged(before, state(case.model, case.inputs))
