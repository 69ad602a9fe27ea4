"""Every method agrees with its slow literal twin (twins.py), family by family."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

import regard
from regard.recording.tokens.tags import STRIDE
from support import families, twins

torch.set_num_threads(1)

RUNS: list[tuple[str, dict[str, object]]] = [
    ("raw_attention", {}),
    ("rollout", {}),
    ("attention_grad_cam", {}),
    ("gae", {"form": "walk"}),
    *[("corrected_attention", {"sign": s}) for s in ("positive", "negative", "absolute", "signed")],
    *[("gradient", {"reduce": r}) for r in ("mean", "l1", "l2")],
    ("input_x_gradient", {}),
    ("alpha_avg", {}),
    ("alpha_max", {}),
]
SINGLE = [name for name in families.CASES if name != "swin"]
"""Swin has a twin of its own below: its rows move between the calls."""


@functools.cache
def both(name: str, precision: torch.dtype = torch.float32) -> tuple[families.Case, twins.Literal]:
    case = families.CASES[name]()
    case.model.to(precision)
    case.inputs = cast(case.inputs, precision)
    return case, twins.run(case)


def cast(inputs, precision: torch.dtype):
    if isinstance(inputs, Tensor):
        return inputs.to(precision)
    return {k: v.to(precision) if v.is_floating_point() else v for k, v in inputs.items()}


def explained(case: families.Case, method: str, **options) -> regard.Explanation:
    torch.manual_seed(0)
    return regard.explain(case.model, case.inputs, case.target, method, **options)


def agree(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5, scale: float | None = None
) -> None:
    """max |difference| over all streams <= tolerance × scale (max |expected|); and the twin's map is not a trivial one."""
    assert set(found) == set(expected)
    scale = scale or max(float(e.abs().max()) for e in expected.values())
    assert scale > 1e-4
    for name, e in expected.items():
        assert found[name].shape == e.shape, name
        assert float((found[name].double() - e).abs().max()) <= tolerance * scale, name


def scale_of(literal: twins.Literal, options: dict[str, object]) -> float | None:
    """A mean of gradients is compared on the scale of what it is the mean of: before a LayerNorm they cancel exactly."""
    if options.get("reduce") != "mean":
        return None
    return max(float(m.max()) for m in twins.at_input(literal, lambda x, g: g.abs().mean(-1)).values())


@pytest.mark.parametrize("name", families.CASES)
def test_streams_grid_and_calls_are_found(name: str) -> None:
    case = both(name)[0]
    seen = regard.inspect(case.model, case.inputs)
    streams = {s.name: s.tokens for s in seen.streams if s.kind != "merged"}
    assert streams == case.streams
    assert {s.name for s in seen.streams if s.kind == "parameter"} == set(case.born)
    assert {s.name: s.grid for s in seen.streams if s.grid and s.kind != "merged"} == case.grid
    assert len(seen.calls) == case.calls
    assert not any(c.lost for c in seen.calls)
    if name != "swin":
        plan = [c for step in case.steps for c in step]
        for call, (queries, keys) in zip(seen.calls, plan, strict=True):
            counts = [sum(case.streams[s] for s in side) for side in (queries, keys)]
            assert call.shape == tuple(counts)
            assert call.kind == ("self" if queries == keys else "cross")
            for side, text in ((queries, call.query), (keys, call.key)):
                assert {part.split(":")[0].split("@")[0] for part in text.split(" | ")} == set(side)
    exp = explained(case, "gae")
    assert {k: tuple(v.shape) for k, v in exp.scores.items()} == {
        k: (len(exp.receipt.target_value), n) for k, n in case.streams.items()
    }
    assert exp.grid == case.grid


@pytest.mark.parametrize("name", [n for n in families.CASES if n != "swin"])
def test_rows_of_calls_are_those_that_the_plan_says(name: str) -> None:
    """Token by token: the n-th row of a call's queries and keys, of every sample, by a plan that is written down."""
    case, literal = both(name)
    torch.manual_seed(0)
    recording = regard.record(case.model, case.inputs)
    rows = [(stream, i) for stream, count in case.joint for i in range(count)]
    first = {s.name: s.first for s in recording.streams}
    plan = [call for step in literal.plan() for call in step]
    assert len(plan) == len(recording.calls)
    for number, *sides in plan:
        call = recording.calls[number]
        for ids, side in zip((call.queries, call.keys), sides, strict=True):
            for sample, found in enumerate(ids.tolist()):
                own = [rows[r] for r in side]
                if case.permuted:
                    order = literal.orders[sample].tolist()
                    own = [(s, order[i] if s == "pixel_values" else i) for s, i in own]
                assert found == [(sample + 1) * STRIDE + first[s] + i for s, i in own], (number, sample)


@pytest.mark.parametrize(("method", "options"), RUNS, ids=[f"{m}-{next(iter(o.values()), '')}" for m, o in RUNS])
@pytest.mark.parametrize("name", SINGLE)
def test_agrees_with_its_twin(name: str, method: str, options: dict[str, object]) -> None:
    case, literal = both(name)
    expected = twins.explain(literal, method, **options)
    agree(explained(case, method, **options).scores, expected, scale=scale_of(literal, options))


@pytest.mark.parametrize(("method", "options"), RUNS, ids=[f"{m}-{next(iter(o.values()), '')}" for m, o in RUNS])
@pytest.mark.parametrize("name", ["dinov2", "bert", "llama", "t5", "lxmert"])
def test_agrees_with_its_twin_in_float64(name: str, method: str, options: dict[str, object]) -> None:
    """A float64 model: the twin has no rounding to speak of; ours accumulates in float32."""
    case, literal = both(name, torch.float64)
    expected = twins.explain(literal, method, **options)
    agree(explained(case, method, **options).scores, expected, scale=scale_of(literal, options))


@pytest.mark.parametrize("name", ["vit", "bert", "lxmert"])
def test_corrected_layers(name: str) -> None:
    """Calls that are not corrected use the mean of A. (The twin's steps of these cases begin with the calls named here.)"""
    case, literal = both(name)
    expected = literal.scores(twins.product(literal, "absolute", layers={1}) - literal.readout())
    agree(explained(case, "corrected_attention", sign="absolute", layers=(1,)).scores, expected)


@pytest.mark.parametrize("name", ["vit", "gpt2"])
def test_start_layer_is_inclusive(name: str) -> None:
    case, literal = both(name)
    r = literal.readout()
    step = literal.plan()[1]
    rows = torch.stack([r[b] @ twins.block(literal, b, step, "positive", False) for b in range(len(r))])
    agree(explained(case, "gae", start_layer=1).scores, literal.scores(rows - r))


@pytest.mark.parametrize("name", ["dinov2", "beit"])
@pytest.mark.parametrize("readout", ["cls", 3, "mean", "weights"])
def test_given_readout(name: str, readout) -> None:
    case, literal = both(name)
    n, born = literal.n, sum(case.streams[s] for s in case.born)
    row = torch.zeros(n)
    if readout == "cls":
        row[0] = 1
    elif readout == "mean":
        row[born:] = 1 / (n - born)
    elif readout == 3:
        row[3] = 1
    else:
        row = torch.arange(1.0, n + 1) / torch.arange(1.0, n + 1).sum()
    given = row * 7 if readout == "weights" else readout
    literal.readout = lambda: row.double().expand(families.BATCH, n)  # type: ignore[method-assign]
    try:
        agree(explained(case, "gae", readout=given).scores, twins.explain(literal, "gae"))
        agree(explained(case, "rollout", readout=given).scores, twins.explain(literal, "rollout"))
    finally:
        del literal.readout


@pytest.mark.parametrize("name", ["gpt2", "gpt2_left"])
def test_last_readout_is_the_last_token_that_is_not_padding(name: str) -> None:
    case, literal = both(name)
    agree(explained(case, "gae", readout="last").scores, twins.explain(literal, "gae"))


@pytest.mark.parametrize("name", SINGLE)
def test_found_readout_is_the_row_that_the_head_reads(name: str) -> None:
    """A roll-out row keeps its mass where it starts: identity calls aside, `r` itself comes back from an empty product."""
    case, literal = both(name)
    torch.manual_seed(0)
    recording = regard.record(case.model, case.inputs)
    (total,) = recording.readout(recording.gradients(case.target(recording.output))).values()
    found = {s.name: total[:, s.rows] for s in recording.streams if s.shown}
    agree(found, literal.scores(literal.readout()))


def test_random_is_uniform_noise_and_seeded() -> None:
    case = families.bert()
    one, two = (explained(case, "random", seed=3).scores["input_ids"] for _ in range(2))
    other = explained(case, "random", seed=4).scores["input_ids"]
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    shown = one[~case.hidden["input_ids"]]
    assert ((shown >= 0) & (shown < 1)).all()
    assert shown.unique().numel() > 4


# -- Swin: windows, a shift and merging, by explicit indices ------------------------------------------------------------


def window_rows(side: int, window: int, shift: int) -> list[list[int]]:
    """Flat rows of each window, in the order in which Swin cuts them, after rolling by −shift."""
    out = []
    for top in range(0, side, window):
        for across in range(0, side, window):
            out.append(
                [
                    (top + i + shift) % side * side + (across + j + shift) % side
                    for i in range(window)
                    for j in range(window)
                ]
            )
    return out


def swin_twin(case: families.Case, literal: twins.Literal, rule: str, normalise: bool) -> tuple[Tensor, Tensor]:
    """(row of the product over 64 input tokens, the read-out pulled back through the merging alone)."""
    plan = [(8, 4, 0), (8, 4, 2), (4, 4, 0)]
    merging = torch.zeros(16, 64, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            for a in range(2):
                for b in range(2):
                    merging[i * 4 + j, (2 * i + a) * 8 + 2 * j + b] = 0.25
    rows, bare = [], []
    for b in range(families.BATCH):
        M = []
        for call, (side, window, shift) in enumerate(plan):
            matrix = torch.eye(side * side, dtype=torch.float64)
            cuts = window_rows(side, window, shift)
            A, G = (t.reshape(families.BATCH, len(cuts), 2, window**2, window**2)[b] for t in
                    (literal.A[call], literal.G[call]))  # fmt: skip
            for w, cut in enumerate(cuts):
                matrix[torch.tensor(cut)[:, None], torch.tensor(cut)] += twins.edge(A[w], G[w], rule)
            if normalise:
                matrix = matrix / matrix.sum(1, keepdim=True)
            M.append(matrix)
        dO = literal.dO[2].reshape(families.BATCH, 1, 2, 16, -1)[b, 0]
        norms = dO.pow(2).sum((0, 2)).sqrt().double()
        r = norms / norms.sum()
        rows.append(r @ M[2] @ merging @ M[1] @ M[0])
        bare.append(r @ merging)
    return torch.stack(rows), torch.stack(bare)


@pytest.mark.parametrize("method", ["rollout", "gae", "corrected_attention"])
def test_swin_windows_shift_and_merging(method: str) -> None:
    case, literal = both("swin")
    if not literal.dO:
        pytest.skip("this transformers runs Swin without the fused attention at which the twin reads dO")
    rule = {"rollout": "mean", "gae": "positive", "corrected_attention": "signed"}[method]
    options = {"sign": "signed"} if method == "corrected_attention" else {}
    expected, bare = swin_twin(case, literal, rule, method == "rollout")
    if method != "rollout":
        expected = expected - bare
    agree(explained(case, method, **options).scores, {"pixel_values": expected})


@pytest.mark.parametrize("reduce", ["mean", "l1", "l2"])
def test_swin_gradient(reduce: str) -> None:
    case, literal = both("swin")
    agree(explained(case, "gradient", reduce=reduce).scores, twins.explain(literal, "gradient", reduce=reduce))
