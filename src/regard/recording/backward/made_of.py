"""What tensors are made of, as far as rules of the backward pass ask: element-wise functions of one tensor, and reductions of
one, however a model writes them down.

x · sigmoid(1.7x) is a function of x alone, taken whole; x · rsqrt(mean(x²) + ε) is x over a length that was made of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from regard.recording.backward.operation import Operation
from regard.recording.tokens.by_tensor import ByTensor
from regard.recording.tokens.elementwise import tensors_in
from regard.recording.tokens.movements import EXPANSIONS

T = TypeVar("T")

COPIES = {"clone", "to", "contiguous", "type", "float", "half", "double", "bfloat16", "alias", "cuda", "cpu", "type_as"}
"""The same numbers."""
STRAIGHT = COPIES | {"add", "sub", "neg", "mul", "div", "positive", "dropout", "masked_fill", "real", "imag", "where"}
"""Element-wise operations that are linear in one operand, the others being constants."""
LENGTHS = {"std", "norm"}
"""Reductions that are a length themselves, as the sum of |x| is; of others, a square root is."""
REDUCES = LENGTHS | {"mean", "sum", "var", "std_mean", "var_mean"}
VIEWS = {"view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten", "view_as", "reshape_as"}
"""The same elements, in the same order."""
SMALL = 4096
"""Elements that a constant may have to be asked what it makes of 0."""
RECENT = 8
"""Tensors of which functions were made last: they are kept, for the model may go on with a function of what it has let go."""


@dataclass(frozen=True)
class As:
    """A tensor as it was before it was written into again, as long as it is there."""

    ref: TensorWeakRef
    version: int


@dataclass(frozen=True)
class Made:
    """An element-wise function f of one tensor: of which, f(0) (None: not known), and whether f is more than a straight line.

    exponent: u, where f = exp(u) (times constants).
    """

    of: Tensor
    at_zero: Any
    curved: bool
    exponent: As | None = None


@dataclass(frozen=True)
class Function:
    """The same as it is kept: of a tensor that goes when nobody needs it."""

    of: As
    at_zero: Any
    curved: bool
    exponent: As | None


@dataclass(frozen=True)
class Reduced:
    """A number for each row of one tensor: made of which, whether it is a length (a root), or 1 over one; the sum of what;
    whether it was made of squares."""

    origin: object
    length: bool = False
    inverse: bool = False
    total: As | None = None
    where: tuple[str, str] = ("", "")
    squares: bool = False


class Known(ByTensor[tuple[int, T]]):
    """What is known of tensors as they are: what is written into is what it was no more."""

    def of(self, t: Tensor) -> T | None:
        """What is known of it, if anything is."""
        found = self.get(t)
        return found[1] if found is not None and found[0] == version(t) else None

    def learn(self, t: Tensor, value: T | None) -> None:
        """Know something of a tensor (None: nothing more)."""
        if value is not None:
            self[t] = version(t), value


def version(t: Tensor) -> int:
    """How often a tensor, or one that shares its memory, has been written into."""
    return 0 if t.is_inference() else t._version


class MadeOf:
    """What is known of the tensors of a run."""

    def __init__(self) -> None:
        self.made = Known[Function]()
        self.recent = deque[Tensor](maxlen=RECENT)
        self.origins = Known[object]()
        self.powers = Known[tuple[object, bool]]()
        self.reduced = Known[Reduced]()
        self.gates = Known[bool]()
        self.kept = ByTensor[dict[int, Tensor]]()
        self.open: dict[object, tuple[str, str]] = {}

    # -- what is known ----------------------------------------------------------------------------------------------

    def function(self, t: Tensor) -> Made:
        """The function that a tensor is; of itself where nothing is known."""
        known = self.made.of(t)
        of = None if known is None else self.current(known.of)
        if known is None or of is None:
            return Made(t, 0.0, False)
        return Made(of, known.at_zero, known.curved, known.exponent)

    def forgotten(self, t: Tensor) -> bool:
        """Whether a tensor is a function of one that is gone."""
        known = self.made.of(t)
        return known is not None and known.curved and self.current(known.of) is None

    def now(self, t: Tensor) -> As:
        """A tensor as it is; it is kept for a while."""
        if not any(t is other for other in self.recent):
            self.recent.append(t)
        return As(TensorWeakRef(t), version(t))

    def current(self, of: As | None) -> Tensor | None:
        """A tensor as it was, or what was kept of it before it is written into; None if it is gone."""
        t = None if of is None else of.ref()
        if of is None or t is None:
            return None
        kept = (self.kept.get(t) or {}).get(of.version)
        return t if kept is None and version(t) == of.version else kept

    def is_gate(self, t: Tensor) -> bool:
        """Whether an activation made it."""
        return bool(self.gates.of(t))

    def is_partly_gate(self, t: Tensor) -> bool:
        """Whether an activation made some of it, and something else the rest."""
        return self.gates.of(t) is False

    def joined(self, op: Operation) -> bool | None:
        """Of tensors side by side, or one written into another: whether all are gates (True), some (False), none (None)."""
        over = op.name == "copy" and op.into is not None  # nothing is left of what was there
        return self._together(t for t in op.dependents if not (over and t is op.into))

    def _together(self, tensors: Iterable[Tensor]) -> bool | None:
        found = [self.gates.of(t) for t in tensors]
        return None if all(gate is None for gate in found) else all(found)

    def origin(self, t: Tensor) -> object:
        """What a tensor is, but for constant factors and its own mean."""
        found = self.origins.of(t)
        if found is None:
            found = object()
            self.origins.learn(t, found)
        return found

    def divides(self, by: Tensor, t: Tensor, inverse: bool) -> bool:
        """Whether `by` is a length (or 1 over one: `inverse`) that was made of t's own rows."""
        reduced = self.reduced.of(by)
        known = reduced is not None and reduced.length and reduced.inverse is inverse
        return known and reduced is not None and reduced.origin is self.origin(t)

    def is_total(self, by: Tensor, t: Tensor, inverse: bool) -> bool:
        """Whether `by` is the sum of t (or 1 over it: `inverse`)."""
        reduced = self.reduced.of(by)
        return reduced is not None and reduced.inverse is inverse and self.current(reduced.total) is t

    def adds_another(self, op: Operation, into: Tensor) -> bool:
        """Whether an operation that writes adds what is of another tensor (a residual connection): nothing is learned of that
        but a mean taken away."""
        roots = {id(self.function(x).of) for x in op.dependents}
        return op.name in ("add", "sub") and len(roots) > 1 and self.reduced.of(into) is None

    def normed(self, by: Tensor) -> None:
        """A length was found to divide what it was made of: its own gradient is nobody's business."""
        reduced = self.reduced.of(by)
        if reduced is not None:
            self.open.pop(reduced.origin, None)

    # -- what is written into ---------------------------------------------------------------------------------------

    def keep(self, t: Tensor) -> Tensor:
        """A copy of what will be written into, known as it is."""
        copy = t.clone()
        self.origin(t)
        self.pass_on(t, copy)
        known = self.kept.get(t) or {}
        self.kept[t] = {**known, version(t): copy}
        return copy

    def pass_on(self, t: Tensor, to: Tensor) -> None:
        """What is known of one tensor is known of another, the same one."""
        self.made.learn(to, self.made.of(t))
        self.origins.learn(to, self.origins.of(t))
        self.powers.learn(to, self.powers.of(t))
        self.reduced.learn(to, self.reduced.of(t))
        self.gates.learn(to, self.gates.of(t))

    def written_through(self, view: Tensor, before: bool | None, depended: bool) -> None:
        """What is known of a view that was written into is known of what it is a view of, which was a gate `before` or not."""
        whole, after = view._base, self.gates.of(view)
        if whole is not None and (before is not None or after is not None):
            self.gates.learn(whole, after if not depended else bool(before and after))
        if whole is not None and whole.numel() == view.numel():
            self.reduced.learn(whole, self.reduced.of(view))

    def put_over(self, op: Operation) -> Reduced | None:
        """What is known of the numbers that are put in the place of all those of a tensor; ask before it is done."""
        if op.name not in ("setitem", "copy"):
            return None
        given = op.given("into index other" if op.name == "setitem" else "into other")
        value, index = given.get("other"), given.get("index", ...)
        places = index if isinstance(index, tuple) else (index,)
        everywhere = all(i is ... or (isinstance(i, slice) and i == slice(None)) for i in places)
        if not everywhere or not isinstance(value, Tensor) or value.shape != op.args[0].shape:
            return None
        return self.reduced.of(value)

    def lost(self, known: Reduced | None, t: Tensor) -> None:
        """A row's own number was written into as nobody follows: the length that it may become has its plain gradient."""
        if known is not None and known.squares and self.reduced.of(t) is None:
            self.open.setdefault(known.origin, known.where)

    # -- what is learned --------------------------------------------------------------------------------------------

    def learn(self, op: Operation, out: Tensor, made: Made | None, curved: bool) -> None:
        """Learn what an element-wise operation gave: the function that it is of one tensor (None: of none)."""
        xs = op.dependents
        if made is not None:
            self.made.learn(out, Function(self.now(made.of), made.at_zero, made.curved, made.exponent))
        if op.name in ("pow", "square", "abs") or (op.name == "mul" and len(xs) == 2 and xs[0] is xs[1]):
            self.powers.learn(out, (self.origin(xs[0]), op.name == "abs"))
        self._follow_origin(op, out)
        self._follow_length(op, out)
        if self.reduced.of(out) is None and (curved or len(xs) == 1):
            self.gates.learn(out, True if curved else self.gates.of(xs[0]))

    def moved(self, op: Operation, out: Any) -> None:
        """The same elements elsewhere."""
        first = op.dependents[0]
        for t in tensors_in([out]) if isinstance(out, Tensor | list | tuple) else ():
            self.gates.learn(t, self.gates.of(first))
            if t.numel() == first.numel() and (op.name in VIEWS or op.name == "getitem"):  # x[..., None]
                self.origins.learn(t, self.origin(first))
            if op.name in VIEWS | EXPANSIONS or (op.name == "getitem" and t.numel() == first.numel()):
                self.reduced.learn(t, self.reduced.of(first))

    def reduction(self, op: Operation, out: Any, where: tuple[str, str]) -> None:
        """A sum, a mean, a variance, a length of a tensor's rows."""
        (x,) = op.dependents[:1]
        if op.name in ("std_mean", "var_mean"):
            for name, part in zip(op.name.split("_"), out, strict=True):
                self.reduction(replace(op, name=name), part, where)
            return
        if not isinstance(out, Tensor):
            return
        power = self.powers.of(x)
        origin, absolute = power or (self.origin(x), False)
        length = absolute or op.name in LENGTHS
        total = self.now(x) if op.name == "sum" else None
        squares = power is not None or length or op.name == "var"
        self.reduced.learn(out, Reduced(origin, length, total=total, where=where, squares=squares))
        if length or op.name == "var":
            self.open[origin] = where

    def products_of(self, x: Tensor, out: Tensor, where: tuple[str, str]) -> None:
        """Sums of squares of a tensor's rows, as a product with itself gives them."""
        if out.ndim < x.ndim:
            self.reduced.learn(out, Reduced(self.origin(x), where=where, squares=True))

    def function_made(self, op: Operation, out: Tensor, curved: bool) -> Made | None:
        """The function of one tensor that an operation gives; None where it is one of several."""
        known = [self.function(x) for x in op.dependents]
        if any(k.of is not known[0].of for k in known) or known[0].of.shape != out.shape:
            return None
        if not curved and not any(k.curved for k in known) and self._shifts(op):
            return None
        exponent = self.now(op.dependents[0]) if op.name in ("exp", "exp2") else None
        if op.name in ("mul", "masked_fill", "to") and len(known) == 1:
            exponent = known[0].exponent
        return Made(known[0].of, self._at_zero(op), curved or any(k.curved for k in known), exponent)

    def _shifts(self, op: Operation) -> bool:
        """Whether a bias with entries of its own is added: what an activation is then of is the sum."""
        others = [t for t in op.operands if isinstance(t, Tensor) and t.ndim and not op.depends(t)]
        return op.name in ("add", "sub") and bool(others)

    def _at_zero(self, op: Operation) -> Any:
        """f(0), as far as it can be told from f alone and small constants."""
        zeros = {}
        for x in op.dependents:
            known = self.function(x).at_zero
            if known is None:
                return None
            zeros[id(x)] = torch.as_tensor(known, dtype=x.dtype, device=x.device)
        own = {id(x) for x in op.dependents}
        constants = [t for t in tensors_in(op.args) + tensors_in(op.kwargs.values()) if id(t) not in own]
        if any(t.numel() > SMALL for t in constants):
            return None
        try:
            with torch.no_grad():
                at = op.with_tensors(zeros)
                return at.func(*at.args, **at.kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None

    def _follow_origin(self, op: Operation, out: Tensor) -> None:
        """Constant factors, and taking its own mean from it, leave a tensor what it was."""
        xs = op.dependents
        if op.name in COPIES | {"mul", "div"} and len(xs) == 1 and op.operands[0] is xs[0]:
            self.origins.learn(out, self.origin(xs[0]))
        if op.name == "mul" and len(xs) == 1:
            self.origins.learn(out, self.origin(xs[0]))
        self.origins.learn(out, self.centred(op))

    def multiplied(self, a: Tensor, b: Tensor, out: Any) -> None:
        """A number for each row leaves a tensor what it was."""
        for x, by in ((a, b), (b, a)):
            if isinstance(out, Tensor) and self.reduced.of(by) is not None and x.shape == out.shape:
                self.origins.learn(out, self.origin(x))

    def centred(self, op: Operation) -> object | None:
        """The origin of a tensor whose own mean is taken from it; None for any other operation."""
        if op.name != "sub" or len(op.dependents) != 2:
            return None
        x, by = op.operands[:2]
        mean, origin = self.reduced.of(by), self.origin(x)
        return origin if mean is not None and not mean.length and mean.origin is origin else None

    def _follow_length(self, op: Operation, out: Tensor) -> None:
        """What an operation makes of a row's own number: a root of it, 1 over it, the same a little moved."""
        found = [self.reduced.of(x) for x in op.dependents]
        known = found[0]
        if known is None or any(other is None or other.origin is not known.origin for other in found):
            return
        length, inverse = known.length, known.inverse
        if op.name in ("sqrt", "rsqrt"):
            length, inverse = True, inverse != (op.name == "rsqrt")
        elif op.name == "pow":
            power = op.operands[1] if len(op.operands) > 1 else 0
            if not isinstance(power, int | float) or abs(power) not in (0.5, 1):
                return
            length, inverse = length or abs(power) == 0.5, inverse != (power < 0)
        elif op.name == "reciprocal" or (op.name == "div" and op.operands[1] is op.dependents[0]):
            inverse = not inverse
        elif op.name not in STRAIGHT | {"clamp", "clamp_min", "clip", "maximum", "square"}:
            return
        self.reduced.learn(out, replace(known, length=length, inverse=inverse))
        if length:
            self.open.setdefault(known.origin, known.where)


__all__ = ["COPIES", "REDUCES", "STRAIGHT", "Made", "MadeOf"]
