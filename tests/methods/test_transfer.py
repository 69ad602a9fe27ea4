"""Attention transfer: t, the row sums and the flows against autograd at explicit scores, in float64; and `exp.transfer()`."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard import Explanation
from regard.attribution.attention import transfer as module
from regard.attribution.attention.transfer import Moved, transfer
from regard.errors import Misuse
from regard.recording import Recording, record
from support import families, handmade, spellings, sweep, twins
from support.as_found import assert_unchanged, state
from support.families import Case
from support.tiny import noise, strong

torch.set_num_threads(1)

EXACT = 1e-9
FAMILIES = [
    "vit", "beit", "dinov2", "clip_vision", "bert", "roberta", "distilbert", "gpt2", "gpt2_left", "llama", "t5",
    "lxmert", "vilt", "torch_encoder", "fours_sdpa",
]  # fmt: skip
MANY = 10_000
Ends = tuple[tuple[str, int], tuple[str, int]]


def doubled(case: Case) -> Case:
    case.model.double()
    if isinstance(case.inputs, Tensor):
        case.inputs = case.inputs.double()
    else:
        case.inputs = {k: v.double() if v.is_floating_point() else v for k, v in case.inputs.items()}
    return case


@functools.cache
def literal(name: str) -> twins.Literal:
    return twins.run(doubled(families.CASES[name]()))


def moved(model: nn.Module, inputs: Any, target: Any, flows: int = MANY) -> tuple[Recording, list[Moved]]:
    torch.manual_seed(0)
    recording = record(model, inputs)
    y = target(recording.output)
    return recording, list(transfer(recording, recording.gradients(y), flows))


def close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float64
    assert float((found - expected).abs().max()) <= EXACT * max(1.0, float(expected.abs().max()))


# -- t, by stream -----------------------------------------------------------------------------------------------------


def names_of(t: twins.Literal, b: int) -> list[tuple[str, int]]:
    """(stream, token) of each joint row of a sample."""
    rows = [(stream, i) for stream, count in t.case.joint for i in range(count)]
    if not t.case.permuted:
        return rows
    order = t.orders[b].tolist()
    return [(s, order[i] if s == "pixel_values" else i) for s, i in rows]


@pytest.mark.parametrize("name", FAMILIES)
def test_t_is_the_gradient_at_the_scores(name: str) -> None:
    t = literal(name)
    recording, found = moved(t.case.model, t.case.inputs, t.case.target)
    plan = [call for step in t.plan() for call in step]
    assert len(found) == len(plan)
    assert max(float(d.abs().max()) for d in t.D) > 1e-3
    for layer, (call, _, keys) in zip(found, plan, strict=True):
        joint = torch.zeros(len(t.y), t.n, dtype=torch.float64)
        joint[:, keys] = t.D[call].sum((1, 2))
        settled = recording.settled(layer.t)
        for stream, expected in t.scores(joint).items():
            close(settled[:, recording.stream(stream).rows], expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_sum_to_zero(name: str) -> None:
    t = literal(name)
    for layer, D in zip(moved(t.case.model, t.case.inputs, t.case.target)[1], t.D, strict=True):
        assert float(layer.row_sum.max()) < EXACT
        close(layer.row_size, D.abs().sum(-1).amax((1, 2)) / 2)
        close(layer.t.sum(1), torch.zeros(len(t.y), dtype=torch.float64))


def test_t_is_what_y_gains_when_all_scores_of_a_token_rise() -> None:
    """The meaning, by really pressing: y after the scores of one key rose a little in every head and row of a layer."""
    model = strong(Pressed()).double()
    x = noise(2, 5, handmade.WIDTH).double()
    found = moved(model, x, lambda out: out["logits"][:, 1])[1]
    for layer in range(2):
        for token in range(5):
            change = []
            for step in (1e-5, -1e-5):
                model.press = (layer, token, step)
                change.append(model(x)["logits"][:, 1].detach())
            model.press = None
            numeric = (change[0] - change[1]) / 2e-5
            assert float((found[layer].t[:, 1 + token] - numeric).abs().max()) < 1e-6


class Pressed(handmade.Layers):
    """Scores of a key in a layer may be raised: `press` = (layer, key, by how much)."""

    press: tuple[int, int, float] | None = None

    def __init__(self) -> None:
        super().__init__(None)

    def attention(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if self.press is not None and self.press[0] == i:
            more = torch.zeros(k.shape[2], dtype=q.dtype)
            more[self.press[1]] = self.press[2]
            scores = scores + more
        return scores.softmax(-1) @ v


# -- flows ------------------------------------------------------------------------------------------------------------


def flows_by_hand(t: twins.Literal, call: int, keys: list[int], b: int) -> dict[Ends, float]:
    names = names_of(t, b)
    return by_hand(t.D[call][b], [names[key] for key in keys])


def by_hand(D: Tensor, keys: list[tuple[str, int]]) -> dict[Ends, float]:
    """Row by row: what each loser loses goes to each gainer by its share of the gains; opposite flows are set off.

    Keys that have no name are no tokens: they take part, and no flow that is told of leads from or to them.
    """
    F: dict[Ends, float] = {}
    for head in D:
        for row in head.tolist():
            gains = sum(d for d in row if d > 0)
            for j, lost in enumerate(row):
                for k, gained in enumerate(row):
                    if lost < 0 < gained and max(j, k) < len(keys):
                        ends = keys[j], keys[k]
                        F[ends] = F.get(ends, 0.0) - lost * gained / gains
    net = {(j, k): f - F.get((k, j), 0.0) for (j, k), f in F.items()}
    return {ends: f for ends, f in net.items() if f > 0}


def ours(recording: Recording, layer: Moved, b: int) -> dict[Ends, float]:
    where = {s.first + i: (s.name, i) for s in recording.streams if s.shown for i in range(s.count)}
    found = zip(*(t[b].tolist() for t in layer.strongest[:3]), strict=True)
    return {(where[j], where[k]): f for j, k, f in found if f > 0}


def same(found: dict[Ends, float], expected: dict[Ends, float]) -> None:
    for ends in expected.keys() | found.keys():
        assert abs(expected.get(ends, 0.0) - found.get(ends, 0.0)) < EXACT


@pytest.mark.parametrize("name", FAMILIES)
def test_flows_go_from_what_loses_to_what_gains(name: str) -> None:
    t = literal(name)
    recording, found = moved(t.case.model, t.case.inputs, t.case.target)
    plan = [call for step in t.plan() for call in step]
    for layer, (call, _, keys) in zip(found, plan, strict=True):
        assert not bool(layer.strongest.missed.any())
        for b in range(len(t.y)):
            expected, got = flows_by_hand(t, call, keys, b), ours(recording, layer, b)
            assert max(expected.values(), default=0.0) > 0 or not bool(t.D[call][b].any())
            same(got, expected)
            assert list(got.values()) == sorted(got.values(), reverse=True)
            for token in {end for ends in got for end in ends}:
                into = sum(f for (_, k), f in got.items() if k == token)
                out = sum(f for (j, _), f in got.items() if j == token)
                stream = recording.stream(token[0])
                assert abs(into - out - float(layer.t[b, stream.first + token[1]])) < EXACT


def test_of_many_tokens_those_that_move_most_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few tokens looked at: what is found is exact, and what was left out is no larger than is said."""
    t = literal("vit")
    whole = moved(t.case.model, t.case.inputs, t.case.target)
    monkeypatch.setattr(module, "MOST", 6)
    few = moved(t.case.model, t.case.inputs, t.case.target)
    for (layer, cut), b in ((pair, b) for pair in zip(whole[1], few[1], strict=True) for b in range(len(t.y))):
        every, some = ours(whole[0], layer, b), ours(few[0], cut, b)
        if not every:
            continue
        assert 0 < len(some) < len(every)
        assert all(abs(every[ends] - f) < EXACT for ends, f in some.items())
        left = max(f for ends, f in every.items() if ends not in some)
        assert left <= float(cut.strongest.missed[b]) + EXACT


@pytest.mark.parametrize("name", ["vit", "gpt2", "lxmert"])
def test_a_small_memory_budget_changes_nothing(name: str) -> None:
    case = doubled(families.CASES[name]())
    torch.manual_seed(0)
    recordings = [record(case.model, case.inputs, memory_budget=budget) for budget in (None, 4096)]
    wide, tight = (
        list(transfer(r, r.gradients(case.target(r.output)), 3)) for r in recordings
    )  # fmt: skip
    for a, b in zip(wide, tight, strict=True):
        close(b.t, a.t)
        close(b.row_size, a.row_size)


# -- merged tokens, several calls a layer, several values, sinks ---------------------------------------------------------


def test_merged_tokens_share_what_their_row_gains() -> None:
    """Swin: windows, shifted windows, and a layer of rows that were merged of four."""
    t = twins.run(doubled(families.swin()))
    recording, found = moved(t.case.model, t.case.inputs, t.case.target)
    shown = regard.explain(t.case.model, t.case.inputs, t.case.target).transfer()
    for layer, (side, window, shift), D in zip(found, [(8, 4, 0), (8, 4, 2), (4, 4, 0)], t.D, strict=True):
        many = (side // window) ** 2
        own = D.reshape(len(t.y), many, -1, window**2, window**2).sum((2, 3))
        grid = own.view(len(t.y), side // window, side // window, window, window).transpose(2, 3)
        grid = grid.reshape(len(t.y), side, side).roll((shift, shift), (1, 2))
        if side == 4:
            grid = grid.repeat_interleave(2, 1).repeat_interleave(2, 2) / 4
        close(recording.settled(layer.t)[:, recording.stream("pixel_values").rows], grid.flatten(1))
        torch.testing.assert_close(shown[layer.attention].streams["pixel_values"], grid.flatten(1).float())
        ends = [end for flows in shown[layer.attention].flows for flow in flows for end in flow[:2]]
        assert ends
        for stream, tokens in ends:
            first = divmod(tokens[0], 8)
            area = [(first[0] + i) * 8 + first[1] + j for i in range(8 // side) for j in range(8 // side)]
            assert (stream, [*tokens]) == ("pixel_values", area)


def test_keys_that_are_no_tokens_take_part() -> None:
    """A key of zeros beside those of tokens (`add_zero_attn`), and a sample that is padded, which has fewer tokens."""
    model = strong(ZeroKey()).double()
    x, padded = noise(2, 5, 8).double(), torch.zeros(2, 5, dtype=torch.bool)
    padded[1, 3:] = True
    case = Case(
        model, {"x": x, "mask": padded}, lambda out: out[:, 1], [("x", 5)], [[(("x",), ("x",))]] * 2, ("x",), [0, 0]
    )
    t = twins.run(case)
    recording, found = moved(model, case.inputs, case.target)
    for layer, D in zip(found, t.D, strict=True):
        assert D.shape[-1] == 6
        close(layer.t[:, recording.stream("x").rows], D[..., :5].sum((1, 2)))
        assert float(D[..., 5].abs().max()) > 1e-4
        for b in range(2):
            same(ours(recording, layer, b), by_hand(D[b], names_of(t, b)))


class ZeroKey(nn.Module):
    """Two layers of torch's own attention with a key of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.MultiheadAttention(8, 2, add_zero_attn=True, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for attention in self.layers:
            x = x + attention(x, x, x, key_padding_mask=mask, need_weights=False)[0]
        return self.head(x[:, 0])


@pytest.mark.parametrize(
    "cls", [spellings.HeadByHead, spellings.Sliced, spellings.SampleBySample, spellings.HeadsAndChunks]
)
def test_an_attention_of_several_calls_is_one_layer(cls: type[nn.Module]) -> None:
    whole = strong(spellings.Whole()).double()
    x = noise(2, spellings.TOKENS, spellings.WIDTH).double()
    target = lambda out: (out if isinstance(out, Tensor) else out["logits"])[:, 1]  # noqa: E731
    _, one = moved(whole, x, target)
    _, several = moved(spellings.like(whole, cls).double(), x, target)
    assert len(one) == len(several)
    for a, b in zip(one, several, strict=True):
        close(b.t, a.t)
        close(b.row_size, a.row_size)
        close(b.strongest.amounts[:, :5], a.strongest.amounts[:, :5])


@pytest.mark.parametrize("how", ["einsum", "bmm", "halves"])
def test_weights_that_multiply_several_values(how: str) -> None:
    model = strong(spellings.Relative(how)).double()
    x = noise(2, spellings.TOKENS, spellings.WIDTH).double()
    _, found = moved(model, x, lambda out: out[:, 1])
    y = model(x)[:, 1]
    G = torch.autograd.grad(y.sum(), model.a)[0]
    A = model.a.detach()
    D = torch.func.vjp(lambda S: S.softmax(-1), A.log())[1](G)[0]
    close(found[0].t[:, 1 : 1 + spellings.TOKENS], D.sum((1, 2)))


def test_a_sink_takes_part_and_is_no_token() -> None:
    """A learned score that takes attention: rows of tokens do not sum to 0, and what is missing is the sink's own gradient."""
    model = strong(handmade.Sinks(None)).double()
    with torch.no_grad():
        model.sinks.add_(1.0)
    case = Case(model, noise(2, 5, handmade.WIDTH).double(), lambda out: out["logits"][:, 1], [("input", 5)],
                [[(("input",), ("input",))]] * 2, ("input",), [0, 0])  # fmt: skip
    t = twins.run(case)
    recording, found = moved(model, case.inputs, case.target)
    for layer, D in zip(found, t.D, strict=True):
        close(layer.t[:, recording.stream("input").rows], D[..., :-1].sum((1, 2)))
        close(-layer.t.sum(1), D[..., -1].sum((1, 2)))
        close(layer.row_sum, D[..., -1].abs().amax((1, 2)))
        assert float(layer.row_sum.min()) > 1e-4
        for b in range(2):
            same(ours(recording, layer, b), by_hand(D[b], names_of(t, b)))
    exp = regard.explain(model, case.inputs, case.target)
    for layer, D in zip(exp.transfer().layers, t.D, strict=True):
        assert torch.allclose(layer.elsewhere.double(), D[..., -1].sum((1, 2)), atol=1e-6)


def test_streams_of_cross_attention_stay_apart() -> None:
    """DETR's last layer looks from object queries at places of the picture: places gain and lose, queries do not."""
    family = sweep.FAMILIES["detr"]
    exp = regard.explain(family.build(), dict(family.inputs), family.target)
    layers = exp.transfer().layers
    assert [([*layer.queries], [*layer.streams]) for layer in layers] == [
        (["pixel_values"], ["pixel_values"]),
        *[
            (["query_position_embeddings"], ["query_position_embeddings"]),
            (["query_position_embeddings"], ["pixel_values"]),
        ]
        * 2,
    ]
    assert float(layers[-1].amount.min()) > 0


# -- exp.transfer() ---------------------------------------------------------------------------------------------------


def test_padding_moves_nothing_and_a_batch_is_its_samples() -> None:
    case = families.bert()
    exp = regard.explain(case.model, case.inputs, case.target)
    found = exp.transfer()
    hidden = case.hidden["input_ids"]
    assert bool(hidden.any())
    for b in range(2):
        one = {k: v[b : b + 1] for k, v in case.inputs.items()}
        alone = regard.explain(case.model, one, case.target).transfer()
        for layer, single, part in zip(found.layers, alone.layers, exp[b].transfer().layers, strict=True):
            assert not bool(layer.streams["input_ids"][hidden].any())
            for other in (single, part):
                torch.testing.assert_close(other.streams["input_ids"][0], layer.streams["input_ids"][b])
                assert [f[:2] for f in other.flows[0][:3]] == [f[:2] for f in layer.flows[b][:3]]
        assert alone.strongest() == found.strongest(b)


def test_gains_and_losses_are_the_same_in_all() -> None:
    case = families.vit()
    layer = regard.explain(case.model, case.inputs, case.target).transfer()[1]
    gained, lost = (torch.cat([*part.values()], 1).sum(1) for part in (layer.gains, layer.losses))
    torch.testing.assert_close(gained, lost, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.amount, gained, rtol=1e-4, atol=1e-6)
    for stream, t in layer.streams.items():
        assert torch.equal(layer.gains[stream] - layer.losses[stream], t)


def test_it_does_not_depend_on_the_method_and_costs_one_run_once() -> None:
    case = families.vilt()
    one, other = regard.explain(case.model, case.inputs, case.target, ["gae", "input_x_gradient"])
    passes = one.receipt.passes
    found = one.transfer()
    assert one.receipt.passes == passes + 2
    assert one.transfer(flows=3).layers[0].flows == [f[:3] for f in found.layers[0].flows]
    assert one.receipt.passes == passes + 2
    for a, b in zip(found.layers, other.transfer().layers, strict=True):
        for stream in a.streams:
            torch.testing.assert_close(a.streams[stream], b.streams[stream])
    assert len(one.transfer(flows=40).layers[0].flows[0]) > len(found.layers[0].flows[0])
    assert one.receipt.passes == passes + 4


def test_saved_loaded_pickled_and_copied(tmp_path: Any) -> None:
    case = families.lxmert()
    exp = regard.explain(case.model, case.inputs, case.target)
    with pytest.raises(Misuse, match=r"call transfer\(...\) first, or explain again"):
        Explanation.load(exp.save(tmp_path / "before.safetensors")).transfer()
    found = exp.transfer(flows=4)
    for other in (Explanation.load(exp.save(tmp_path / "e.safetensors")), pickle.loads(pickle.dumps(exp))):
        assert other.transfer(flows=4).to_dict() == found.to_dict()
        assert other.transfer(flows=2)[0].flows[0] == found[0].flows[0][:2]
        with pytest.raises(Misuse, match="with 5 flows"):
            other.transfer(flows=5)
    assert copy.deepcopy(exp).transfer(flows=4).to_dict() == found.to_dict()
    assert exp[1].transfer(flows=4)[0].flows == [found[0].flows[1]]


def test_misuse() -> None:
    case = families.vit()
    exp = regard.explain(case.model, case.inputs, case.target)
    for flows in (-1, True):
        with pytest.raises(Misuse, match="flows is how many"):
            exp.transfer(flows=flows)
    with pytest.raises(Misuse, match="layer 2 is out of range: the run has 2 attentions, numbered from 0"):
        exp.transfer().plot(layer=2)


@pytest.mark.parametrize("name", ["vit", "bert", "lxmert"])
def test_the_model_is_left_as_found(name: str) -> None:
    case = families.CASES[name]()
    exp = regard.explain(case.model, case.inputs, case.target)
    before = state(case.model, case.inputs)
    exp.transfer()
    assert_unchanged(before, state(case.model, case.inputs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regard.api.transferring.transfer", lambda *_: 1 / 0)
        again = regard.explain(case.model, case.inputs, case.target)
        with pytest.raises(ZeroDivisionError):
            again.transfer()
    assert_unchanged(before, state(case.model, case.inputs))
