"""One step of a recurrence: a row and a state, each through weights, become the new state (gates in place of residual sums)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from regard.recording.tokens.elementwise import Tags, element_wise, mixing
from regard.recording.tokens.tags import constant, first_along
from regard.recording.tokens.tracker import Trail

CELLS = ("gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell")


def cell(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """(row, width) and a state (row, width), or two: features of each row are summed over, then the two meet row by row."""
    outs = [out] if isinstance(out, Tensor) else list(out)
    given = [args[0], *([args[1]] if isinstance(args[1], Tensor) else args[1])]
    rows = []
    for t in given:
        tag = trail.tag(t)
        if tag is None:
            continue
        if tag.lost or tag.keys is not None or not (tag.raw or constant(tag.ids, -1)):
            return mixing(trail, name, args, kwargs, out)
        tag = trail.contracted(tag, -1, name)
        rows.append(stand_in := outs[0].new_zeros(()).expand(outs[0].shape))
        trail.put(stand_in, tag.moved(lambda i: first_along(i, -1).expand(outs[0].shape)))
    return [element_wise(trail, name, rows, {}, o)[0] for o in outs]
