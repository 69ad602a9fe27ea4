"""Maps that follow some heads alone, against maps that are written out; each head's own map; what is refused."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.errors import Misuse
from support import twins
from support.every_method import case_of, explain

torch.set_num_threads(1)
SELF = ["vit", "bert", "gpt2_left", "llama"]
"""One stream of attention over itself, a call a layer."""


def agree(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    scale = max(float(e.abs().max()) for e in expected.values())
    assert scale > 1e-4
    for name, e in expected.items():
        assert float((found[name].double() - e).abs().max()) <= 1e-5 * scale, name


def edges(literal: twins.Literal, call: int, b: int, heads: tuple[int, ...], rule: str) -> Tensor:
    """The mean over some heads."""
    return twins.edge(literal.A[call][b][list(heads)], literal.G[call][b][list(heads)], rule)


def along(literal: twins.Literal, chosen: dict[int, tuple[int, ...]], rule: str) -> dict[str, Tensor]:
    """Row r of Π(I + E) − r, E of the layers and heads that are named: full matrices."""
    r, out = literal.readout(), []
    for b in range(len(literal.y)):
        R = torch.eye(literal.n, dtype=torch.float64)
        for step in literal.plan():
            for call, queries, keys in step:
                if call in chosen:
                    E = torch.zeros(literal.n, literal.n, dtype=torch.float64)
                    E[torch.tensor(queries)[:, None], torch.tensor(keys)] = edges(literal, call, b, chosen[call], rule)
                    R = R + E @ R
        out.append(r[b] @ R - r[b])
    return literal.scores(torch.stack(out))


# -- written out --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SELF)
def test_a_head_of_a_layer_is_its_row_of_the_map(name: str) -> None:
    case = case_of(name)
    literal = twins.run(case)
    for method, rule in (("raw_attention", "mean"), ("gae", "positive")):
        for layer, head in ((0, 1), (1, 1)):
            found = explain(case, method, heads={layer: head}).scores
            agree(found, along(literal, {layer: (head,)}, rule))


def test_some_heads_of_some_layers() -> None:
    case = case_of("llama")
    literal = twins.run(case)
    layers = range(len(literal.A))
    agree(explain(case, "gae", heads=[0, 2]).scores, along(literal, dict.fromkeys(layers, (0, 2)), "positive"))
    agree(explain(case, "gae", heads={0: [1, 2], 1: 0}).scores, along(literal, {0: (1, 2), 1: (0,)}, "positive"))
    agree(explain(case, "gae", heads=["0:1", "0:2", "1:0"]).scores, along(literal, {0: (1, 2), 1: (0,)}, "positive"))
    agree(explain(case, "raw_attention", heads=2).scores, along(literal, {layers[-1]: (2,)}, "mean"))


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2_left", "t5", "fours_bmm"])
def test_the_mean_over_heads_is_the_methods_own_map(name: str) -> None:
    """raw_attention is linear in the heads of its layer; all heads together are none chosen."""
    case = case_of(name)
    whole = explain(case, "raw_attention")
    heads = regard.inspect(case.model, case.inputs).calls[-1].heads
    each = [explain(case, "raw_attention", heads=h).scores for h in range(heads)]
    for stream, scores in whole.scores.items():
        torch.testing.assert_close(torch.stack([e[stream] for e in each]).mean(0), scores, rtol=1e-5, atol=1e-7)
    for method, more in (("raw_attention", {}), ("gae", {"form": "walk"})):
        every = explain(case, method, heads=range(heads)).scores
        for stream, scores in explain(case, method, **more).scores.items():
            torch.testing.assert_close(every[stream], scores, rtol=1e-5, atol=1e-7)


class Looped(nn.Module):
    """One layer whose three heads are kernel calls of their own; the first token is read."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.W = nn.Parameter(torch.randn(3, 3, 6, 4, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        O = [F.scaled_dot_product_attention(*(x[:, None] @ w for w in head))[:, 0] for head in self.W]
        return torch.cat(O, -1)[:, 0]


def test_heads_in_a_loop_are_numbered_through() -> None:
    """Heads that are calls of their own are the heads of one attention, in their order."""
    model, x = Looped().eval(), torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    assert len(regard.record(model, x).attentions) == 1
    for head, (q, k, _) in enumerate(model.W):
        A = torch.softmax((x @ q) @ (x @ k).transpose(1, 2) / 2, -1).detach()
        for heads in (head, {0: head}):
            found = regard.explain(model, x, 0, "raw_attention", heads=heads).scores["input"]
            torch.testing.assert_close(found, A[:, 0], rtol=1e-5, atol=1e-6)
    each = regard.explain(model, x, 0, "raw_attention").heads()
    assert (len(each), each[0].heads) == (1, 3)


def test_rows_between_tokens_follow_the_head() -> None:
    """What BertViz draws: where each token looks, by one head of one layer."""
    case = case_of("bert")
    literal = twins.run(case)
    exp = explain(case, "raw_attention", heads={0: 1})
    found = exp.between("input_ids", "input_ids")
    real = ~case.hidden["input_ids"][0]
    expected = literal.A[0][0][1]
    torch.testing.assert_close(found[0][real][:, real], expected[real][:, real], rtol=1e-5, atol=1e-6)


# -- each head's own map ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["raw_attention", "gae"])
def test_each_heads_map_is_that_of_the_head_alone(method: str) -> None:
    case = case_of("bert")
    exp, cost = explain(case, method), {"raw_attention": 1, "gae": 2}[method]
    before = exp.receipt.passes
    found = exp.heads()
    assert exp.receipt.passes == before + cost
    assert exp.heads().layers is found.layers
    assert exp.receipt.passes == before + cost
    calls = regard.inspect(case.model, case.inputs).calls
    assert [(la.index, la.heads, la.name) for la in found] == [(c.index, c.heads, c.module) for c in calls]
    for layer, head in ((0, 0), (1, 1)):
        alone = explain(case, method, heads={layer: head}).scores["input_ids"]
        torch.testing.assert_close(found[layer].maps["input_ids"][:, head], alone)
    assert torch.equal(exp[1].heads()[0].maps["input_ids"], found[0].maps["input_ids"][1:2])
    plain = found.to_dict()
    assert (plain["method"], len(plain["layers"])) == (method, len(calls))
    assert str(found).splitlines()[0] == "sample 0"


def test_they_are_not_saved(tmp_path: Path) -> None:
    exp = explain(case_of("bert"), "gae")
    exp.save(tmp_path / "map.safetensors")
    with pytest.raises(Misuse, match="explain again"):
        regard.Explanation.load(tmp_path / "map.safetensors").heads()
    found = exp.heads()
    kept = pickle.loads(pickle.dumps(exp)).heads()
    assert torch.equal(kept[0].maps["input_ids"], found[0].maps["input_ids"])
    assert copy.deepcopy(exp).heads().layers is found.layers


# -- refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "says"),
    [
        (99, "head 99 is out of range: layer 0 has"),
        ({9: 0}, "layer 9 is out of range"),
        ({0: 99}, "head 99 is out of range"),
        (True, "heads is a head's number"),
        (-1, "heads is a head's number"),
        ([], "heads is a head's number"),
        ({}, "heads is a head's number"),
        ({0: []}, "heads is a head's number"),
        ("all", "heads is a head's number"),
        (["0:1", 2], "heads is a head's number"),
    ],
)
def test_heads_that_are_none(heads: Any, says: str) -> None:
    for method in ("raw_attention", "gae"):
        with pytest.raises(Misuse, match=says):
            explain(case_of("bert"), method, heads=heads)


def test_what_does_not_go_together() -> None:
    with pytest.raises(Misuse, match="leave form='bimodal' out"):
        explain(case_of("lxmert"), "gae", heads=0, form="bimodal")
    with pytest.raises(Misuse, match="leave start_layer out"):
        explain(case_of("bert"), "gae", heads={0: 0}, start_layer=1)
    with pytest.raises(Misuse, match="has no map of a head; use 'gae' or 'raw_attention'"):
        explain(case_of("bert"), "rollout").heads()
