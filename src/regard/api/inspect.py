"""What was seen of a model: streams, attention calls, blocks; printed as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from regard.probes.heads import Heads, similar_heads
from regard.recording import AttentionCall, Recording, record
from regard.recording.ambient import our_own
from regard.recording.calls.certainty import Certainty
from regard.recording.frames import Block
from regard.recording.interrupted import left_as_found
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.recording.relevance.readout import Readout, read_out
from regard.recording.tokens.tags import STRIDE


@dataclass(frozen=True)
class SeenStream:
    """A token stream: its name, its tokens, its grid where it is a picture, and whether it is an input or learned."""

    name: str
    tokens: int
    grid: tuple[int, ...] | None
    kind: str


@dataclass(frozen=True)
class SeenCall:
    """An attention call: which tokens look at which. `query` and `key` name segments, as in `cls_token | pixel_values@14x14`.

    `key` are the tokens of the values. `certainty` says how sure that is: followed, or said by the caller, either with doubts,
    or lost, and why. `attention` is the number of the attention that the call is a part of: several calls may make one layer.
    """

    index: int
    module: str
    query: str
    key: str
    heads: int
    shape: tuple[int, int]
    kind: str
    implementation: str
    certainty: Certainty
    lost: str = ""
    attention: int = 0


@dataclass(frozen=True)
class Seen:
    """What `regard.inspect` returns."""

    streams: list[SeenStream]
    calls: list[SeenCall]
    blocks: list[Block]
    readout: str = ""
    heads: Heads | None = None

    def __str__(self) -> str:
        head = ("call", "module", "queries", "keys", "heads", "shape", "kind", "implementation", "certainty")
        several = len({c.attention for c in self.calls}) < len(self.calls)
        lines = [head] + [
            (
                f"{c.index} (attention {c.attention})" if several else str(c.index),
                c.module,
                c.query,
                c.key,
                str(c.heads),
                f"{c.shape[0]}x{c.shape[1]}",
                c.kind,
                c.implementation,
                str(c.certainty),
            )
            for c in self.calls
        ]
        widths = [max(len(r[i]) for r in lines) for i in range(len(head))]
        table = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in lines]
        streams = [
            f"{s.name}: {s.tokens} tokens" + (f", grid {_by(s.grid)}" if s.grid else "") + f" ({s.kind})"
            for s in self.streams
        ]
        readout = ["", f"read-out: {self.readout}"] if self.readout else []
        heads = ["", "heads", str(self.heads)] if self.heads is not None else []
        return "\n".join(["streams", *("  " + s for s in streams), "", *table, *readout, *heads])

    __repr__ = __str__


@left_as_found
def inspect(
    model: nn.Module,
    inputs: Any,
    target: Any = None,
    *,
    streams: Mapping[str, Any] | None = None,
    readout: Readout = None,
    training: bool = False,
    batch_axis: Any = 0,
    heads: bool = False,
) -> Seen:
    """Run the model once and say what was seen, and how sure it is: streams, calls, blocks.

    Lost trails are shown, not raised. `streams` and `batch_axis` as in `regard.explain`. Where a target (or `readout`) is
    given, the rows that it reads are told as well, at the cost of a gradient. heads: how alike the heads of each
    attention are (`regard.probe.heads`).
    """
    asked = target is not None or readout is not None
    refuse(model, training)
    with rng_kept(model), our_own():
        recording = record(
            model, inputs, target, streams=streams, training=training, strict=False, batch_axis=batch_axis
        )
        seen = replace(summary(recording), heads=similar_heads(recording) if heads else None)
        if not asked:
            return seen
        if any(c.lost for c in recording.calls):
            return replace(seen, readout="not known, for the tokens of some calls are lost")
        how = read_out(recording, recording.gradients(), readout, recording.inputs, recording.output)[1]
        return replace(seen, readout=how)


def summary(recording: Recording) -> Seen:
    """The same of a recording at hand."""
    streams = [SeenStream(s.name, s.count, s.grid, s.kind) for s in recording.streams]
    return Seen(streams, [_call(recording, c) for c in recording.calls], recording.blocks)


def _call(recording: Recording, call: AttentionCall) -> SeenCall:
    certainty = recording.certainty[call.index]
    if call.lost:
        place = recording.overrides.places[call.index]
        shape = (place.rows, place.keys)
        lost, number = call.lost, call.attention
        return SeenCall(call.index, call.module, "?", "?", 0, shape, "?", call.kernel, certainty, lost, number)
    query, key = segments(recording, call.queries), segments(recording, call.keys)
    same = bool(torch.isin(call.queries, call.keys).all())
    _, heads, n, m = call.shape
    kind = "self" if same else "cross"
    return SeenCall(
        call.index, call.module, query, key, heads, (n, m), kind, call.kernel, certainty, "", call.attention
    )


def _by(grid: tuple[int, ...]) -> str:
    return "x".join(map(str, grid))


def segments(recording: Recording, ids: torch.Tensor) -> str:
    """The streams of a call's rows, in order: `cls_token | pixel_values@14x14`."""
    rows = ids[0] % STRIDE
    parts: list[str] = []
    for row in rows[rows > 0].tolist():
        name = next(
            (s.name + (f"@{_by(s.grid)}" if s.grid else f":{s.count}" if s.count > 1 else "")
             for s in recording.streams if s.first <= row < s.first + s.count), "?",
        )  # fmt: skip
        if not parts or parts[-1] != name:
            parts.append(name)
    return " | ".join(parts)
