"""What a model makes of its tokens where no operation is seen: in a kernel that a torch.autograd.Function starts (Triton, a
library's own), or inside torch.vmap. It comes back without a tag, as a constant would; torch's graph tells the two apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from regard.recording.graph import node_of, upstream, written_by_hand
from regard.recording.tokens.elementwise import nowhere
from regard.recording.tokens.tags import is_parameter, stream_of
from regard.recording.tokens.tracker import Trail

UNNAMED = "an operation out of sight"


def end_trails(trail: Trail, leaves: Mapping[str, Tensor], operands: Iterable[Any]) -> None:
    """The trail ends at operands that no rule has tagged, though they were made of inputs (`leaves`, by their entries)."""
    for t in operands:
        if t in trail.tags or is_parameter(t) or not t.requires_grad or t.is_leaf:
            continue
        if t in trail.constants or trail.tag(t) is not None:
            continue
        made_of = [*upstream([node_of(t)])]
        names = [stream_of(name) for name, leaf in leaves.items() if node_of(leaf) in made_of]
        if not names:
            trail.constants[t] = True
            continue
        first, *others = sorted((trail.entered[name] for name in dict.fromkeys(names)), key=lambda tag: tag.source.rank)
        ended = nowhere(replace(first, raw=False), _name(made_of), t, *others)
        trail.put(t, replace(ended, seen=(1 << trail.events) - 1, origin=None, lost_in=trail.module()))


def _name(nodes: Iterable[Any]) -> str:
    """The function of the user's own nearest to the tensor, if there is one."""
    return next((n.name().removesuffix("Backward") for n in nodes if written_by_hand(n)), UNNAMED)


__all__ = ["end_trails"]
