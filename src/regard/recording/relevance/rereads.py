"""What a target reads of rows as they stood before later attentions changed them (tokens/rereads.py notes where they meet)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from regard.recording.calls import AttentionCall
from regard.recording.gradient import gradient
from regard.recording.tokens.rereads import Reread


def reread(calls: Sequence[AttentionCall], rereads: Sequence[Reread], y: Tensor) -> list[str]:
    """Sentences on earlier states that y rests on."""
    open_ = [r for r in rereads if not any(_reads(c, r) for c in calls)]
    if not open_ or not y.requires_grad:
        return []
    found: dict[str, set[int]] = {}
    for r, g in zip(open_, gradient(y, [r.out for r in open_], keep=True), strict=True):
        if r.reached(g):
            last = next(c.attention for c in calls if c.event == r.before.bit_length() - 1)
            found.setdefault(r.stream, set()).add(last)
    return [
        f"the target also reads tokens of {name} as attention {', '.join(map(str, sorted(at)))} left them, before later ones "
        "changed them; maps begin at the last states alone"
        for name, at in found.items()
    ]


def _reads(call: AttentionCall, r: Reread) -> bool:
    """Whether a call reads what earlier and later states have made together."""
    return call.event >= r.time and (call.seen | call.rows_seen | call.keys_seen) & r.after == r.after
