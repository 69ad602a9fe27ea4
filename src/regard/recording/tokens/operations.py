"""How tags go through tensor operations: the table of rules, and `follow`, which is called after each operation of a run.

The tables are positive lists. An operation that is in none of them ends the trail; its name stays on the tag, so that an error
can say where it was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from regard.recording.tokens.broadcast import MULTIPLIES, compared, exponential, multiplied, still_met, summed
from regard.recording.tokens.contractions import (
    CONVOLUTIONS,
    POOLS,
    PRODUCTS,
    convolution,
    distances,
    embedding,
    evenly_pooled,
    linear,
    one_hot,
    product,
    softmax,
)
from regard.recording.tokens.elementwise import (
    ELEMENT_WISE,
    REDUCTIONS,
    Tags,
    element_wise,
    first_alone,
    gated,
    mixing,
    normalised,
    ranking,
    reduction,
    running,
    tensors_in,
)
from regard.recording.tokens.movements import (
    JOINS,
    MOVEMENTS,
    RESHAPES,
    as_complex,
    as_real,
    copied,
    each,
    forgotten,
    join,
    movement,
    pad,
    reshape,
    resized,
    select,
)
from regard.recording.tokens.parts_rules import follow_parts
from regard.recording.tokens.recurrent import CELLS, cell
from regard.recording.tokens.storage import name_of_kernel
from regard.recording.tokens.tags import is_parameter
from regard.recording.tokens.tracker import Trail
from regard.recording.tokens.widths_rules import follow_widths
from regard.recording.tokens.writes import SUMS_INTO, WRITES, added, scatter, spellings

FRESH = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like", "new_zeros"}
FRESH |= {"new_ones", "new_empty", "new_full", "new_tensor", "argmax", "argmin", "argsort", "nonzero", "multinomial"}
SHAPES = {
    "size",
    "shape",
    "stride",
    "dim",
    "ndim",
    "numel",
    "element_size",
    "storage_offset",
    "__len__",
    "dtype",
    "device",
}
"""What tells of a tensor alone, and not of its values."""
FRESH |= SHAPES | {"item", "tolist"}
"""What tells of a tensor but holds none of its rows: shapes, places, constants."""
FILLS = {"zero_", "fill_", "normal_", "uniform_", "random_", "exponential_", "bernoulli_", "cauchy_", "geometric_"}
NORMS = {"layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm", "normalize", "local_response_norm"}
NORMS |= {"native_layer_norm", "native_batch_norm", "native_group_norm", "renorm", "_fused_rms_norm"}


def name_of(func: Callable[..., Any]) -> str:
    """An operation's bare name; a property's own name for its getter."""
    name: str = getattr(func, "__name__", "?")
    if isinstance(func, torch._ops.OpOverload):
        name = name.partition(".")[0]
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", "?"))
    return name


def follow(trail: Trail, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Tag an operation's results."""
    if not isinstance(out, Tensor | list | tuple):
        return
    name = name_of(func)
    if name in FRESH:
        return
    kwargs = {k: v for k, v in kwargs.items() if k != "out"}
    operands = tensors_in(args) + tensors_in(kwargs.values())
    if not any(is_parameter(t) or trail.tag(t) is not None for t in operands):
        return
    if not args and "input" in kwargs:
        args, kwargs = (kwargs["input"],), {k: v for k, v in kwargs.items() if k != "input"}
    rule: Callable[..., Tags] = RULES.get(name, mixing)
    if foreign := name_of_kernel(func):
        name, rule = foreign, mixing
    try:
        tags = rule(trail, name, args, kwargs, out)
    except (RuntimeError, IndexError, ValueError, TypeError, KeyError, AttributeError):
        tags = mixing(trail, name, args, kwargs, out)  # not known in this form: the trail ends, the run goes on
    if trail.met and rule in (element_wise, multiplied) and isinstance(out, Tensor):
        still_met(trail, operands, out)
    outs = [out] if isinstance(out, Tensor) else list(out)
    for t, tag in zip_longest(outs, tags[: len(outs)]):
        ends = tag is not None and tag.lost == name and not tag.lost_in
        trail.put(t, replace(tag, lost_in=trail.module()) if tag is not None and ends else tag)
    follow_parts(trail, rule, name, args, kwargs, out)
    if len(trail.widths):
        follow_widths(trail, rule, name, args, kwargs, out)


RULES: dict[str, Callable[..., Tags]] = {
    **dict.fromkeys(ELEMENT_WISE, element_wise),
    **dict.fromkeys(RESHAPES, reshape),
    **dict.fromkeys(MOVEMENTS, movement),
    **dict.fromkeys(JOINS, join),
    **dict.fromkeys(("meshgrid", "broadcast_tensors"), each),
    **dict.fromkeys(PRODUCTS, product),
    **dict.fromkeys(CONVOLUTIONS, convolution),
    **dict.fromkeys(POOLS, convolution),
    **dict.fromkeys(("softmax", "_softmax", "softmin", "log_softmax", "_log_softmax", "gumbel_softmax"), softmax),
    **dict.fromkeys(spellings(WRITES), scatter),
    **dict.fromkeys(spellings(SUMS_INTO), added),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(MULTIPLIES, multiplied),
    "sum": summed,
    "exp": exponential,
    **dict.fromkeys(("topk", "sort", "max", "min"), ranking),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "cumsum_", "cumprod_"), running),
    **dict.fromkeys(FILLS, forgotten),
    **dict.fromkeys(NORMS, normalised),
    **dict.fromkeys(CELLS, cell),
    **dict.fromkeys(("to", "type_as"), first_alone),
    "glu": gated,
    "copy_": copied,
    "pad": pad,
    **dict.fromkeys(("interpolate", "upsample"), resized),
    "where": select,
    "embedding": embedding,
    "one_hot": one_hot,
    "cdist": distances,
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), evenly_pooled),
    **dict.fromkeys(("cosine_similarity", "pairwise_distance"), compared),
    "view_as_complex": as_complex,
    "view_as_real": as_real,
    **dict.fromkeys(("linear", "grouped_mm", "_grouped_mm"), linear),
}
