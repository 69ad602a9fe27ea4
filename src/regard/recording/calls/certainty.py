"""How sure it is whose tokens a call reads.

Axes are followed, so most of it is certain. What is not: the sample of a parameter's rows (`cls_token.expand(batch, ...)` is
known by the length of the axis alone, until such rows stand beside an input's), and neighbours that a convolution mixed in.
Rows whose samples contradict each other are a lost trail, not a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor

from regard.recording.calls import AttentionCall
from regard.recording.calls.call import by_rows
from regard.recording.tokens.overrides import Overrides
from regard.recording.tokens.tags import STRIDE, Lost, Why
from regard.recording.tokens.tracker import Trail


def contradicted(calls: Sequence[AttentionCall], trail: Trail) -> list[AttentionCall]:
    """The calls; those in which a parameter's rows are of another sample than the rows beside them are lost, and so are those
    in which copies of one token cannot be told from one another."""
    contradiction, copies = (by_rows(partial(f, trail=trail)) for f in (_contradiction, _copies))
    told = [c.lost or contradiction(c) or _confused(c, trail) or copies(c) for c in calls]
    return [replace(c, lost=why) if why != c.lost else c for c, why in zip(calls, told, strict=True)]


def _confused(call: AttentionCall, trail: Trail) -> str:
    """Why it is not known which copy of a token a query row is, where several calls told them apart."""
    confused = trail.confused >> call.event & 1
    told = "copies of one token are attended in several calls, and cannot be told from one another"
    return Lost(told, Why.COPIES) if confused else ""


def _copies(call: AttentionCall, trail: Trail) -> str:
    """The same, where they stand in one call; "" where there are none, or they were told apart."""
    of_input = torch.zeros(trail.rows, dtype=torch.bool)
    for stream in trail.streams:
        of_input[stream.rows] = stream.of_input
    each = [ids[of_input[ids % STRIDE]].unique() for ids in call.queries] if len(call.queries) > 1 else []
    if each and len(found := torch.cat(each)) > len(found.unique()):
        told = "a token stands at several places of it (copies, overlapping windows, heads of different orders)"
        return Lost(told, Why.COPIES)
    return ""


def _contradiction(call: AttentionCall, trail: Trail) -> str:
    ids, parameter = _rows(call, trail)
    sample, given = ids // STRIDE, ~parameter & (ids > 0)
    most = sample.masked_fill(~given, 0).amax(1)
    least = sample.masked_fill(~given, int(sample.max()) + 1).amin(1)
    alone = ~given.any(1)
    expected = torch.where(alone, sample.amax(1), most)
    wrong = parameter & (sample != expected[:, None]) & (alone | (most == least))[:, None]
    if not bool(wrong.any()):
        return ""
    name = trail.stream_of(int(ids[wrong][0] % STRIDE)).name
    told = f"rows of {name} were assigned to samples only because an axis has the length of the batch"
    return Lost(told, Why.AXIS)


def _rows(call: AttentionCall, trail: Trail) -> tuple[Tensor, Bool[Tensor, "group row"]]:
    """Ids of a call's queries and keys, and whether each is a parameter's."""
    born = torch.zeros(trail.rows, dtype=torch.bool)
    for stream in trail.streams:
        if stream.kind == "parameter":
            born[stream.rows] = True
    ids = torch.cat([call.queries, call.keys], 1)
    return ids, born[ids % STRIDE]


@dataclass(frozen=True)
class Certainty:
    """How sure it is whose tokens a call reads.

    lost: why they are not known, or "". said: the caller says it. unnamed: how many of the call's `keys` are of no stream
    (constants, padding of windows). doubts: why it may be otherwise.
    """

    lost: str = ""
    said: bool = False
    unnamed: int = 0
    keys: int = 0
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.lost:
            return f"lost: {self.lost}"
        how = "said by the caller" if self.said else "followed"
        if self.unnamed:
            how += f" ({self.unnamed} of {self.keys} keys belong to no token)"
        return f"{how}, but {'; '.join(self.doubts)}" if self.doubts else how


def certainty(calls: Sequence[AttentionCall], trail: Trail, overrides: Overrides) -> dict[int, Certainty]:
    """How sure each call's tokens are."""
    confirmed, names = _confirmed(calls, trail), by_rows(partial(_names, trail=trail))
    return {c.index: Certainty(c.lost) if c.lost else _of(c, trail, overrides, confirmed, names(c)) for c in calls}


def _of(call: AttentionCall, trail: Trail, overrides: Overrides, confirmed: set[str], names: set[str]) -> Certainty:
    doubts = list(dict.fromkeys(d for event, name, d in trail.doubts if event <= call.event and name in names))
    unsure = sorted(names - confirmed)
    if unsure and len(trail.batches) and max(trail.batches) > 1:
        doubts.append(f"rows of {', '.join(unsure)} are assigned to samples by the length of an axis")
    unnamed, keys = int((call.keys[0] == 0).sum()), call.keys.shape[1]
    return Certainty("", call.index in overrides.notes, unnamed, keys, tuple(doubts))


def _names(call: AttentionCall, trail: Trail) -> set[str]:
    """The streams that a call's rows are of."""
    used = torch.zeros(trail.rows, dtype=torch.bool)
    used[torch.cat([call.queries, call.keys], 1).flatten() % STRIDE] = True
    return {s.name for s in trail.streams if bool(used[s.rows].any())}


def _confirmed(calls: Sequence[AttentionCall], trail: Trail) -> set[str]:
    """Streams whose samples are certain: inputs, and parameters whose rows stand beside an input's in some call."""
    sure = {s.name for s in trail.streams if s.kind != "parameter"}
    beside, names = by_rows(partial(_beside_inputs, trail=trail)), by_rows(partial(_names, trail=trail))
    for call in calls:
        if not call.lost and beside(call):
            sure |= names(call)
    return sure


def _beside_inputs(call: AttentionCall, trail: Trail) -> bool:
    """Whether an input's rows are in each of a call's groups."""
    ids, parameter = _rows(call, trail)
    return bool((~parameter & (ids > 0)).any(1).all())
