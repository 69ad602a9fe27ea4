"""Inputs of whole numbers: ids, which are looked up in a table, or numbers that the model counts with, as it does with pixels.

Their dtype does not say which they are; what the model does with them does. They are taken for ids first. Where calls read
their tokens though no table was asked for them, the run begins anew, and they enter where the model makes them floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from regard.recording.tokens.elementwise import tensors_in
from regard.recording.tokens.lookups import is_lookup
from regard.recording.tokens.tags import Tag
from regard.recording.tokens.tracker import Trail


def entering(trail: Trail, name: str, args: Sequence[Any], out: Any) -> Tag | None:
    """The tag of whole numbers that have just become floats: pixels, a one for each id among zeros, rows of a table that ids
    picked by an index; else None. What is told from an input of floats (which of them are padding) is no input."""
    tag = trail.tag(out)
    if tag is None or tag.lost or tag.computed or tag.keys is not None or not out.is_floating_point():
        return None
    if is_lookup(trail, name, args):
        return tag
    if tag.source.floats or not any(
        isinstance(a, list | tuple) or (isinstance(a, Tensor) and not a.is_floating_point()) for a in args
    ):
        return None
    from_whole = False
    for t in tensors_in(args):
        other = trail.tag(t)
        if other is not None and other.source is tag.source:
            if t.is_floating_point() or t.is_complex():
                return None
            from_whole = other.raw == tag.raw
    return tag if from_whole and tag.raw != tag.source.ids else None
