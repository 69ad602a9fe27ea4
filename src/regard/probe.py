"""Probes: what attention carries, what a state is about, which heads are alike, whether words look
at what they mean, and what another attention would change.

    regard.probe.shortcut(model, inputs)                # how much of a prediction the attention weights carry by themselves
    regard.probe.heads(model, inputs)                   # which heads of a layer do the same
    regard.probe.correspondence(model, inputs)          # how much a state is about the token at its own position
    regard.probe.grounding(model, inputs, pairs=pairs)  # whether words look at the regions that they are known to mean
    regard.probe.rerun(model, inputs, attention=prior)  # what changes where the attention is replaced

Each takes a model and its inputs as `regard.explain` does, leaves both as they were, and returns a result with fields, a
table when printed, and `to_html(path)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from regard.errors import Misuse, UnknownName, nearest
from regard.probes.correspondence import Correspondence as Correspondence
from regard.probes.correspondence import correspondence as correspondence
from regard.probes.grounding import Grounding as Grounding
from regard.probes.grounding import grounding as grounding
from regard.probes.heads import Heads as Heads
from regard.probes.heads import heads as heads
from regard.probes.imposed import AttentionRerun as AttentionRerun
from regard.probes.imposed import rerun as rerun
from regard.probes.shortcut import Shortcut as Shortcut
from regard.probes.shortcut import shortcut as shortcut

PROBES: dict[str, Callable[..., Any]] = {
    "shortcut": shortcut,
    "correspondence": correspondence,
    "heads": heads,
    "grounding": grounding,
    "rerun": rerun,
}
"""Every probe by its name."""
NEEDED = {
    "pairs": "the regions that phrases of the text are known to mean",
    "attention": "what stands in the place of the model's own",
}
"""What some probes cannot do without."""


def of_target(name: str) -> bool:
    """Whether a probe is of a target."""
    return "target" in inspect.signature(PROBES[name]).parameters


def named(name: str, *, target: Any = None, **options: Any) -> Callable[..., Any]:
    """The probe of a name.

    Raises UnknownName for another and for an option that it does not take, Misuse for a target that it does not take, and where
    an option is missing that it needs.
    """
    if name not in PROBES:
        raise nearest(name, PROBES, "probe")
    takes = {n: p for n, p in inspect.signature(PROBES[name]).parameters.items() if p.kind is p.KEYWORD_ONLY}
    if target is not None and not of_target(name):
        raise Misuse(f"the probe {name!r} is of no target; leave target= out")
    known = [*takes, *(n for n in ("streams", "training", "batch_axis", "memory_budget") if n not in takes)]
    for option in options:
        if option not in known:
            others = [p for p, made in PROBES.items() if option in inspect.signature(made).parameters]
            if others:
                raise UnknownName(f"the probe {name!r} takes no {option!r}; {' and '.join(others)} does")
            raise nearest(option, known, f"option of the probe {name!r}")
    for needed in (n for n, p in takes.items() if p.default is p.empty and n not in options):
        raise Misuse(f"the probe {name!r} needs {needed}=: {NEEDED[needed]}")
    return PROBES[name]


__all__ = [
    "PROBES",
    "AttentionRerun",
    "Correspondence",
    "Grounding",
    "Heads",
    "Shortcut",
    "correspondence",
    "grounding",
    "heads",
    "named",
    "of_target",
    "rerun",
    "shortcut",
]
