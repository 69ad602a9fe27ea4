"""Earlier states of rows beside later ones: a head that reads a row before and after an attention (two layers' class tokens).

The read-out of a map is of the last states. What a head reads of the same rows as they stood before, past the attentions that
changed them, is found where the two meet, and told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.recording.graph import node_of, upstream
from regard.recording.tokens import STRIDE, Tag, Trail

if TYPE_CHECKING:
    from regard.recording.recording import Recording

CONTRACTS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "ScaledDotProduct", "UnsafeView_Mm")


@dataclass(frozen=True)
class Reread:
    """Rows of a stream that had absorbed `before`, beside rows that have absorbed `after`. node: where they met."""

    stream: str
    before: int
    after: int
    node: Any


def earlier_states(trail: Trail, parts: Sequence[tuple[Tensor, Tag]], out: Tensor, *, joined: bool) -> None:
    """Note rows that meet later states of their own. joined: side by side; else added or multiplied."""
    seens = {tag.seen & trail.call_events for _, tag in parts}
    if len(seens) < 2 or not out.requires_grad:
        return
    after = max(seens, key=int.bit_count)
    newest = [t for t, tag in parts if tag.seen & trail.call_events == after]
    for t, tag in parts:
        before = tag.seen & trail.call_events
        if not before or before == after or before & ~after or not _changed(trail, tag, after & ~before):
            continue
        if joined or _picked(tag, out) or any(_holds(n, t) for n in newest):
            trail.rereads.append(Reread(tag.source.name, before, after, node_of(out)))


def _changed(trail: Trail, tag: Tag, missing: int) -> bool:
    """Whether calls that a tensor has not absorbed had some of its rows among their queries."""
    rows = tag.origin if tag.lost else tag.ids.unique() % STRIDE
    if rows is None or tag.keys is not None:
        return False
    queried = [q % STRIDE for e, q in trail.queried.items() if missing >> e & 1]
    return bool(queried) and bool(torch.isin(rows[rows > 0], torch.cat(queried)).any())


def _picked(tag: Tag, out: Tensor) -> bool:
    """Whether one row of each sample, or a mean of its rows, is all that is left: a head's affair."""
    if out.ndim != 2:
        return False
    ids = tag.ids[..., :1].flatten()
    return bool(tag.lost) or len((ids // STRIDE).unique()) == len(ids)


def _holds(newer: Tensor, older: Tensor) -> bool:
    """Whether a state holds an older one already, as the residual stream does: no matrix stands between them."""
    kept = {*_uncontracted(older)}
    return any(node in kept for node in _uncontracted(newer))


def _uncontracted(t: Tensor) -> Iterator[Any]:
    return (n for n in upstream([node_of(t)], _is_plain) if _is_plain(n))


def _is_plain(node: Any) -> bool:
    return not node.name().startswith(CONTRACTS)


def reread(recording: Recording, y: Tensor) -> list[str]:
    """Sentences on earlier states that y rests on."""
    later = [c.seen | c.rows_seen | c.keys_seen for c in recording.calls]
    open_ = [r for r in recording.rereads if not any(seen & r.after == r.after for seen in later)]
    if not open_:
        return []
    reached = {*upstream([node_of(y)])}
    found: dict[str, set[int]] = {}
    for r in open_:
        if r.node in reached:
            last = next(c.attention for c in recording.calls if c.event == r.before.bit_length() - 1)
            found.setdefault(r.stream, set()).add(last)
    return [
        f"the target also reads tokens of {name} as attention {', '.join(map(str, sorted(at)))} left them, before later ones "
        "changed them; maps begin at the last states alone"
        for name, at in found.items()
    ]


__all__ = ["Reread", "earlier_states", "reread"]
