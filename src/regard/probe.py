"""Probes: what attention carries, what a state is about, which heads are alike, where attention to a phrase stands.

    regard.probe.shortcut(model, inputs)     # how much of a prediction the attention weights carry by themselves
    regard.probe.heads(model, inputs)        # which heads of a layer do the same
    regard.probe.correspondence(model, inputs)  # how much a state is about the token at its own position

Each takes a model and its inputs as `regard.explain` does, leaves both as they were, and returns a result with fields, a
table when printed, and `to_html(path)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from regard.errors import Misuse, nearest
from regard.probes.correspondence import Correspondence as Correspondence
from regard.probes.correspondence import correspondence as correspondence
from regard.probes.heads import Heads as Heads
from regard.probes.heads import heads as heads
from regard.probes.shortcut import Shortcut as Shortcut
from regard.probes.shortcut import shortcut as shortcut

PROBES: dict[str, Callable[..., Any]] = {"shortcut": shortcut, "correspondence": correspondence, "heads": heads}
"""Every probe by its name."""


def named(name: str, *, target: Any = None, **options: Any) -> Callable[..., Any]:
    """The probe of a name. Raises UnknownName for another, Misuse for a target, or an option, that it does not take."""
    if name not in PROBES:
        raise nearest(name, PROBES, "probe")
    takes = {n for n, p in inspect.signature(PROBES[name]).parameters.items() if p.kind is p.KEYWORD_ONLY}
    takes |= {"streams", "training", "batch_axis", "memory_budget"}
    if target is not None and "target" not in inspect.signature(PROBES[name]).parameters:
        raise Misuse(f"the probe {name!r} is of no target; leave target= out")
    for option in options:
        if option not in takes:
            raise nearest(option, takes, f"option of the probe {name!r}")
    return PROBES[name]


__all__ = ["PROBES", "Correspondence", "Heads", "Shortcut", "correspondence", "heads", "named", "shortcut"]
