"""Rebuilt rows: whatever the tiles, the same map; no tile larger than the memory budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import regard
from regard.attribution.attention.edge_rules import EDGES
from regard.errors import Misuse
from regard.memory import MEMORY_BUDGET, budget_of
from regard.recording import record
from regard.recording.calls import AttentionCall, Layout, Pull
from regard.recording.calls.rebuild import tiles
from regard.target import Target
from support import families

METHODS = ["gae", "rollout", "alpha_max", "attention_grad_cam"]


@pytest.mark.parametrize("name", families.CASES)
def test_a_budget_of_one_row_gives_the_same_maps(name: str) -> None:
    case = families.CASES[name]()
    torch.manual_seed(0)
    usual = regard.explain(case.model, case.inputs, case.target, METHODS)
    torch.manual_seed(0)
    scant = regard.explain(case.model, case.inputs, case.target, METHODS, memory_budget=1)
    for a, b in zip(usual, scant, strict=True):
        scale = max(float(s.abs().max()) for s in a.scores.values())
        for stream, scores in a.scores.items():
            assert float((scores - b.scores[stream]).abs().max()) <= 2e-6 * scale, (a.method, stream)


def call_of(groups: int, heads: int, n: int, m: int, kv: int | None = None, width: int = 4, **more) -> AttentionCall:
    """A call of random numbers, bound to a random gradient."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda h, tokens: torch.randn(groups, h, tokens, width, generator=generator)  # noqa: E731
    ids = [torch.arange(1, t + 1)[None] + (torch.arange(1, groups + 1) << 32)[:, None] for t in (n, m)]
    q, k, v, dO = draw(heads, n), draw(kv or heads, m), draw(kv or heads, m), draw(heads, n)
    layout = Layout((groups, heads), (0, 1), groups, heads)
    return AttentionCall(
        index=0, event=0, module="", kernel="sdpa", seen=0, layout=layout, queries=ids[0], keys=ids[1], output=dO, v=v, q=q,
        k=k, dO=dO, scale=0.5, **more
    )  # fmt: skip


def literal(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """A and G in full, (group, head, row, key)."""
    q, k, v = call.q, call.k, call.v
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    S = torch.einsum("ghid,ghjd->ghij", q, k) * call.scale
    if call.mask is not None:
        S = S.masked_fill(~call.mask, -torch.inf) if call.mask.dtype == torch.bool else S + call.mask
    if call.causal:
        S = S.masked_fill(torch.ones(S.shape[-2:]).triu(1).bool(), -torch.inf)
    return torch.softmax(S, -1).nan_to_num(0.0), torch.einsum("ghid,ghjd->ghij", call.dO, v)


def masks() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    at = torch.arange(9)
    near = (at[:, None] - at).abs() <= 2
    padded = (at < torch.tensor([[9], [5], [7]]))[:, None, None]
    return {
        "padding": padded,
        "window": near,
        "window and padding": near & padded,
        "one for each head": torch.randn(1, 4, 9, 9, generator=generator),
        "additive": torch.where(near & padded, 0.0, torch.finfo(torch.float32).min),
        "keys only": at < 6,
    }


@pytest.mark.parametrize("budget", [1, 600, 3000, MEMORY_BUDGET])
@pytest.mark.parametrize("mask", [None, *masks()])
@pytest.mark.parametrize("kv", [4, 2, 1])
def test_tiles_put_together_are_the_whole(budget: int, mask: str | None, kv: int) -> None:
    call = call_of(3, 4, 9, 9, kv, mask=None if mask is None else masks()[mask], budget=budget)
    A, G = literal(call)
    index = torch.tensor([0, 1, 2, 5, 8])
    rows = call.rows(index)
    torch.testing.assert_close(rows.A, A[:, :, index])
    torch.testing.assert_close(rows.G, G[:, :, index])
    r = torch.rand(3, 9, generator=torch.Generator().manual_seed(2)) * (torch.arange(9) != 4)
    E = {"positive": (A * G).clamp(min=0).mean(1), "mean": A.mean(1), "max": A.amax(1)}
    pulls = [Pull(r, EDGES[name]) for name in E]
    for pulled, e in zip(call.pull_all(pulls), E.values(), strict=True):
        torch.testing.assert_close(pulled.moved, (r[:, None] @ e)[:, 0])
    (normalised,) = call.pull_all([Pull(r, EDGES["mean"], normalised=True)])
    keep = 1 / (1 + E["mean"].sum(-1))
    torch.testing.assert_close(normalised.moved, ((r * keep)[:, None] @ E["mean"])[:, 0])
    torch.testing.assert_close(normalised.keep[r != 0], keep[r != 0])


def test_rows_of_a_causal_call_hold_the_gradient_at_later_keys_too() -> None:
    call = call_of(1, 2, 6, 6, causal=True)
    A, G = literal(call)
    rows = call.rows(torch.arange(6))
    torch.testing.assert_close(rows.A, A)
    torch.testing.assert_close(rows.G, G)
    upto = [tile.keys.stop for tile, _, _ in tiles(AttentionCall(**(call.__dict__ | {"budget": 100})), torch.arange(6))]
    assert min(upto) == 1, "later keys of a causal call are built for nothing"


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, list | tuple) else [out]:
            if isinstance(t, Tensor):
                self.bytes = max(self.bytes, t.untyped_storage().nbytes() if t._base is None else 0)
        return out


@pytest.mark.parametrize("rule", ["positive", "mean", "max"])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_no_tensor_is_larger_than_the_budget(rule: str, normalised: bool, causal: bool) -> None:
    n, budget = 512, 256 << 10
    call = call_of(2, 8, n, n, causal=causal, budget=budget)
    assert 2 * 8 * n * n * 4 > 50 * budget
    r = torch.ones(2, n)
    with Largest() as seen:
        call.pull_all([Pull(r, EDGES[rule], normalised)])
    assert 0 < seen.bytes <= budget


def test_the_budget_reaches_the_calls_of_a_recording() -> None:
    case = families.CASES["vit"]()
    assert {c.budget for c in record(case.model, case.inputs).calls} == {MEMORY_BUDGET}
    assert {c.budget for c in record(case.model, case.inputs, memory_budget="2MB").calls} == {2 << 20}


@pytest.mark.parametrize(("said", "bytes_"), [(None, MEMORY_BUDGET), (7, 7), ("64MB", 64 << 20), ("1.5 GiB", 3 << 29)])
def test_budgets_are_read(said: object, bytes_: int) -> None:
    assert budget_of(said) == bytes_


@pytest.mark.parametrize("said", [0, -1, "lots", "", "3 bananas", True, "-2MB"])
def test_a_budget_that_is_none_is_refused_in_a_sentence(said: object) -> None:
    with pytest.raises(Misuse, match="memory_budget must be"):
        budget_of(said)


def test_several_targets_and_methods_share_the_budget() -> None:
    case = families.CASES["vit"]()
    maps = regard.explain(case.model, case.inputs, [Target.logit(0), Target.logit(1)], METHODS, memory_budget="1KB")
    assert len(maps) == 2 * len(METHODS)
