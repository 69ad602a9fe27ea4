"""Earlier states of rows beside later ones: a head that reads a row before and after an attention (two layers' class tokens).

The read-out of a map is of the last states. What a head reads of the same rows as they stood before, past the attentions that
changed them, is found where the two meet, and told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.recording.graph import node_of, upstream
from regard.recording.tokens.tags import STRIDE, Tag
from regard.recording.tokens.tracker import Trail

if TYPE_CHECKING:
    pass

CONTRACTS = (
    *("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "ScaledDotProduct", "UnsafeView_Mm"),
    *("LinearByRows", "PatchEmbedding"),
)


@dataclass(frozen=True)
class Reread:
    """Rows of a stream that had absorbed `before`, beside rows that have absorbed `after`, from the event `time` on.

    out: where they met; part: its axis, the first place on it, and how many places are the earlier state's; None: all of it.
    """

    stream: str
    before: int
    after: int
    time: int
    out: Tensor = field(repr=False)
    part: tuple[int, int, int] | None = None

    def reached(self, gradient: Tensor | None) -> bool:
        """Whether y has a gradient at the earlier state's place, given that at all of `out`."""
        if gradient is None:
            return False
        return bool((gradient if self.part is None else gradient.narrow(*self.part)).any())


def earlier_states(
    trail: Trail, parts: Sequence[tuple[Tensor, Tag]], out: Tensor, places: Sequence[tuple[int, int, int]] | None = None
) -> None:
    """Note rows that meet later states of their own. places: of parts that stand side by side; None: they meet by elements."""
    seens = {tag.seen & trail.call_events for _, tag in parts}
    if len(seens) < 2 or not out.requires_grad:
        return
    after = max(seens, key=int.bit_count)
    newest = [t for t, tag in parts if tag.seen & trail.call_events == after]
    for i, (t, tag) in enumerate(parts):
        before = tag.seen & trail.call_events
        if not before or before == after or before & ~after or not _changed(trail, tag, after & ~before):
            continue
        if places is not None or _picked(tag, out) or any(_holds(n, t) for n in newest):
            part = None if places is None else places[i]
            trail.rereads.append(Reread(tag.source.name, before, after, trail.events, out, part))


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


__all__ = ["Reread", "earlier_states"]
