"""A grammar of small attention models: what people write by hand, in words that can be drawn, shrunk and pasted.

A `Net` is the choices; `build(net)` is the nn.Module that they mean, written as people write it (heads folded into the batch,
chunks of query rows, a buffer filled by slices, ...), and `inputs(net)` what it is fed. `grammar_twin.py` computes the same
function from the same choices by full matrices. Nothing here uses our code.

`x` is the stream that is read; `y`, where an attention looks at it, is a second one. Sizes coincide often, on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

CLASSES, FEATURES, WORDS, WINDOW, CHUNK, SHIFT = 3, 3, 11, 2, 2, 1
"""Classes of the head, width of features before a first Linear, ids, tokens of a window, query rows of a chunk, a shift."""

MOVES = (
    "none", "flip", "roll", "index", "gather", "sort", "matrix", "drop", "top", "pairs mean", "pairs sum", "pairs linear",
    "tome", "tome sum", "repeat", "tile",
)  # fmt: skip

RESIDUALS = ("plain", "pre", "post", "parallel", "bare")

POOLS = ("first", "last", "mean", "max")

LAYOUTS = (
    "b h n d", "h b n d", "b n h d", "b g r n d", "samples first", "heads first", "loop", "loop in a buffer", "modules",
    "stripes", "mha",
)  # fmt: skip

SCORES = (
    "matmul", "einsum", "einsum keys first", "einsum transposed", "bmm", "baddbmm", "multiply", "sdpa", "mha",
)  # fmt: skip

PRODUCTS = ("matmul", "einsum", "einsum values first", "bmm", "multiply", "sdpa", "mha")

SOFTMAXES = ("method", "torch", "functional", "by hand", "log")

VALUES = ("same", "shifted", "other", "parameter keys")

EXTRAS = ("none", "second", "relative", "apart")

LOOPS = ("whole", "joined", "in a buffer")

SAMPLES = (*LOOPS, "stacked")

WINDOWS = (*LOOPS, "folded", "shifted")

GROUPED = ("no", "repeated", "expanded", "broadcast")

JOINED = ("added", "stacked", "weighed", "contracted", "a linear layer", "cut", "side by side", "stacked side by side")

SIDES = ("side by side", "stacked side by side")


class Words:
    """A repr that is the constructor call, with what is not the default."""

    def __repr__(self) -> str:
        said = [f"{f.name}={v!r}" for f in fields(self) if (v := getattr(self, f.name)) != f.default]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(said)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How hypothesis prints it."""
        printer.text(repr(self))


@dataclass(frozen=True, repr=False)
class Attention(Words):
    """One softmax(QKᵀ)V, as it is meant and as it is written.

    keys: whose tokens the keys are. values: of which tokens the values are ("shifted": of those one place further; "other":
    of the other stream; "parameter keys": the keys are a parameter, the values of `keys`). extra: one map multiplies more
    ("second": a @ v + a @ r; "relative": a @ v + Σ_j a_ij r_ij; "apart": a @ v and a @ r, each with its own W_O).
    mask: how blocked keys are left out, "fill" or "add". The rest: `rows` of queries, `samples` and `windows` one by one.
    """

    keys: str = "x"
    values: str = "same"
    extra: str = "none"
    causal: bool = False
    layout: str = "b h n d"
    grouped: str = "no"
    scores: str = "matmul"
    softmax: str = "method"
    product: str = "matmul"
    mask: str = "fill"
    rows: str = "whole"
    samples: str = "whole"
    windows: str = "whole"


@dataclass(frozen=True, repr=False)
class Layer(Words):
    """Tokens are moved; then one attention, or two whose outputs are `joined` (`after` W_O, or before it): added, in several
    spellings, with weights or without, or concatenated as heads of one."""

    move: str = "none"
    residual: str = "plain"
    attentions: tuple[Attention, ...] = (Attention(),)
    after: bool = True
    joined: str = "added"


@dataclass(frozen=True, repr=False)
class Net(Words):
    """A whole model. enter: "features" of the model's width, through a "linear" map, or "ids". encoded: y passes an attention
    of its own first. padded: the last token of every other sample is padding, by a mask among the inputs.
    """

    batch: int = 1
    tokens: int = 4
    others: int = 4
    heads: int = 1
    size: int = 4
    enter: str = "features"
    cls: bool = False
    padded: bool = False
    encoded: bool = False
    layers: tuple[Layer, ...] = (Layer(),)
    pool: str = "first"
    seed: int = 0

    @property
    def width(self) -> int:
        return self.heads * self.size

    @property
    def two(self) -> bool:
        """Whether any attention looks at y."""
        return any(a.keys == "y" or a.values == "other" for layer in self.layers for a in layer.attentions)

    def lengths(self) -> list[int]:
        """How many tokens x has in each layer."""
        out, n = [], self.tokens + self.cls
        for layer in self.layers:
            out.append(n := moved_length(layer.move, n))
        return out


def moved_length(move: str, n: int) -> int:
    if move in ("drop", "top"):
        return n - 1
    if move.startswith("pairs"):
        return n // 2
    if move.startswith("tome"):
        return n - MERGED
    return 2 * n if move in ("repeat", "tile") else n


MERGED = 2
"""Tokens that ToMe merges away, of those at even places."""
