"""Token ids that pick rows of a table by an index, as an embedding does: `table[ids]`, `index_select`, `gather`.

The table is a parameter, or made of parameters alone (scaled, with a row for padding put before it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.recording.tokens.elementwise import nowhere
from regard.recording.tokens.tags import PARAMETERS, Tag, first_along
from regard.recording.tokens.tracker import Trail

PICKS = ("__getitem__", "index_select", "gather", "take_along_dim", "take")


def is_lookup(trail: Trail, name: str, args: Sequence[Any]) -> bool:
    """Whether token ids pick rows of a table by an index."""
    index = _rows_picked(name, args)
    return index is not None and _are_ids(trail.tag(index), index) and args[0].ndim == 2 and _is_table(trail, args[0])


def looked_up(trail: Trail, name: str, args: Sequence[Any], out: Tensor) -> Tag | None:
    """The tag of what token ids have picked: the ids' tokens, or nowhere if this was no picking of whole rows from a table of
    learned ones; None for all other indices."""
    if is_lookup(trail, name, args):
        index = _rows_picked(name, args)
        tag = trail.tag(index)
        assert tag is not None
        trail.looked_up.add(tag.source.name)
        tag = trail.born(tag, tag.ids)
        return tag.moved(lambda i: (first_along(i, -1) if i.ndim == out.ndim else i[..., None]).expand(out.shape))
    tags = [trail.tag(i) for i in _indices(args) if _are_ids(trail.tag(i), i)]
    if name not in PICKS or not tags or trail.parameter_tag(args[0]) is None or not _is_table(trail, args[0]):
        return None
    assert tags[0] is not None
    trail.looked_up.add(tags[0].source.name)
    return nowhere(replace(tags[0], computed=True), name, out)


def _rows_picked(name: str, args: Sequence[Any]) -> Tensor | None:
    """The index of whole rows: one number for each, or the same one for all features of a row (`gather`)."""
    index: Any = None
    if name == "__getitem__" and len(args) > 1:
        index, *others = args[1] if isinstance(args[1], tuple) else (args[1],)
        index = index if all(o is Ellipsis or o == slice(None) for o in others if not isinstance(o, Tensor)) else None
        index = None if any(isinstance(o, Tensor) for o in others) else index
    elif name == "index_select" and len(args) > 2 and args[1] in (0, -args[0].ndim):
        index = args[2]
    elif name in ("gather", "take_along_dim") and len(args) > 2:
        dim, index = (args[1], args[2]) if name == "gather" else (args[2], args[1])
        whole = dim in (0, -2) and index.ndim == 2 and (index.shape[1] == 1 or index.stride(1) == 0)
        index = index if whole and (name != "gather" or index.shape[1] == args[0].shape[1]) else None
    return index if isinstance(index, Tensor) else None


def _indices(args: Sequence[Any]) -> list[Tensor]:
    """Tensors among the arguments after the first."""
    found: list[Tensor] = []
    for a in args[1:]:
        found += [x for x in (a if isinstance(a, list | tuple) else (a,)) if isinstance(x, Tensor)]
    return found


def _are_ids(tag: Tag | None, index: Tensor) -> bool:
    """Whether an index is an input's token ids, as they came."""
    return tag is not None and tag.raw and tag.source.ids and not tag.computed and index.dtype != torch.bool


def _is_table(trail: Trail, table: Any) -> bool:
    """Whether a tensor is nobody's, or rows of parameters that no sample has a part in."""
    tag = trail.tag(table)
    return tag is None or (tag.source.rank >= PARAMETERS and not tag.lost and not tag.seen and tag.keys is None)


__all__ = ["PICKS", "is_lookup", "looked_up"]
