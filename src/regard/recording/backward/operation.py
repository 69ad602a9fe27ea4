"""One operation as rules of the backward pass read it: its plain name, its operands, and what of them depends on the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from regard.recording.tokens.elementwise import tensors_in
from regard.recording.tokens.operations import name_of

SPELLED = {
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "truediv": "div",
    "subtract": "sub",
    "negative": "neg",
    "special_expit": "sigmoid",
    "expit": "sigmoid",
    "__matmul__": "matmul",
    "linalg_norm": "norm",
    "linalg_vector_norm": "norm",
    "vector_norm": "norm",
    "_softmax": "softmax",
    "special_softmax": "softmax",
}
"""Other spellings of an operation."""
MIRRORED = {"radd": "add", "rsub": "sub", "rmul": "mul", "rdiv": "div", "rtruediv": "div", "rpow": "pow"}
"""Arithmetic with its operands the other way round."""
INTO = {"iadd", "isub", "imul", "idiv", "itruediv", "ipow", "ifloordiv", "imod"}
"""Arithmetic that writes into its first operand."""

FORMULA = ("input", "self", "other", "exponent", "mat1", "batch1", "mat2", "batch2", "vec1", "vec", "vec2")
"""Operands that may be given by name, in the order of their formula."""


@dataclass(frozen=True)
class Operation:
    """An operation that is about to run.

    Attributes:
        name: its plain name: `mul` for `x *= y` and `torch.multiply`. operands: its own, in the order of the formula.
        dependents: the tensors among its arguments that depend on the inputs. into: the tensor that it writes into, or None.
    """

    func: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    operands: tuple[Any, ...]
    dependents: tuple[Tensor, ...]
    into: Tensor | None = None

    @classmethod
    def read(
        cls,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        depends: Callable[[Tensor], bool],
    ) -> Operation:
        """From what a function mode is handed."""
        name, mirrored, writes = plain(name_of(func))
        operands = (*args, *(kwargs[name] for name in FORMULA if name in kwargs))
        operands = (*operands[:2][::-1], *operands[2:]) if mirrored and len(operands) > 1 else operands
        dependents = tuple(t for t in tensors_in(args) + tensors_in(kwargs.values()) if depends(t))
        writes = writes or bool(kwargs.get("inplace"))
        into = operands[0] if writes and operands and isinstance(operands[0], Tensor) else None
        return cls(func, name, tuple(args), dict(kwargs), operands, dependents, into)

    def depends(self, t: Any) -> bool:
        """Whether an argument is a tensor that depends on the inputs."""
        return any(t is x for x in self.dependents)

    def given(self, names: str) -> dict[str, Any]:
        """Its arguments by name, of which `names` are the positional ones."""
        return dict(zip(names.split(), self.args, strict=False)) | self.kwargs

    def with_tensors(self, new: Mapping[int, Any]) -> Operation:
        """The same with other values in the place of some tensors, by their id()."""
        args = tuple(_exchanged(a, new) for a in self.args)
        return replace(self, args=args, kwargs={k: _exchanged(v, new) for k, v in self.kwargs.items()})

    def among(self, new: Mapping[int, Tensor]) -> Operation:
        """The same operation of other tensors, which depend on the inputs as those did whose id() is given."""
        made = self.with_tensors(new)
        operands = tuple(_exchanged(o, new) for o in self.operands)
        return replace(made, operands=operands, dependents=tuple(new.get(id(t), t) for t in self.dependents))

    def apart(self) -> Operation | None:
        """The same without writing into an operand; None for one that can only write."""
        own = getattr(self.func, "__name__", "")
        kwargs = {k: v for k, v in self.kwargs.items() if k != "inplace"}
        if own.startswith("__i"):
            return replace(self, func=getattr(torch.Tensor, f"__{own[3:]}"), into=None)
        if own.endswith("_") and not own.endswith("__"):
            found = _named(own[:-1])
            return None if found is None else replace(self, func=found, into=None, kwargs=kwargs)
        return replace(self, into=None, kwargs=kwargs)


def _named(name: str) -> Callable[..., Any] | None:
    rooms = (torch.Tensor, torch, nn.functional)
    return next((f for room in rooms if (f := getattr(room, name, None)) is not None), None)


def plain(name: str) -> tuple[str, bool, bool]:
    """An operation's plain name; whether its operands are the other way round; whether it writes into the first."""
    dunder = name.startswith("__") and name.endswith("__") and len(name) > 4
    bare = name[2:-2] if dunder else name
    writes = (dunder and bare in INTO) or (not dunder and bare.endswith("_"))
    mirrored = bare in MIRRORED
    bare = bare[1:] if dunder and writes else bare.rstrip("_") if writes else MIRRORED.get(bare, bare)
    return SPELLED.get(name, SPELLED.get(bare, bare)), mirrored, writes and name != "__setitem__"


def _exchanged(value: Any, new: Mapping[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return new.get(id(value), value)
    if type(value) in (list, tuple) and any(isinstance(v, Tensor) and id(v) in new for v in value):
        return type(value)(_exchanged(v, new) for v in value)
    return value


__all__ = ["Operation", "plain"]
