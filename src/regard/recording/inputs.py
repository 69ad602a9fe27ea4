"""What goes in: a user's inputs as named values, where their samples lie, and how they are handed to the model.

A dict goes by keyword; a tensor is "input"; a tuple is "input_0", "input_1", ... A dict, list, named tuple or dataclass that is
*one* argument is followed one level down, under dotted names: `batch.image`, `images.0`. What a run may change in place, such
as a cache of keys and values, is copied for each run, so that the caller's is left as found and every run reads the same.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import InputError, Misuse, ModelError, nearest
from regard.recording.refusals import unwrapped
from regard.recording.tokens.tags import STRIDE, constant
from regard.recording.tokens.tracker import Trail

Axis = int | None
Axes = int | None | Mapping[str, Axis]
CACHES = ("past_key_values", "past_key_value", "cache_params", "mems", "cache", "past")
"""Arguments that hold what earlier runs computed. Their tensors hold no input's tokens and are not followed."""
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True)
class Slot:
    """One argument: a value by its name, or (`parts`) a container's values, key by key, that are to be put together again."""

    name: str
    value: Any = field(repr=False, default=None)
    parts: dict[Any, str] | None = None

    @classmethod
    def of(cls, name: str, value: Any) -> Slot:
        """An argument, its container opened."""
        held = None if isinstance(value, Tensor) or name in CACHES else _parts(value)
        return cls(name, value, None if held is None else {key: f"{name}.{key}" for key in held})

    def values(self) -> dict[str, Any]:
        """Its values, by name."""
        if self.parts is None:
            return {self.name: self.value}
        return {self.parts[key]: v for key, v in (_parts(self.value) or {}).items()}

    def made(self, values: Mapping[str, Any]) -> Any:
        """The argument, of new values."""
        if self.parts is None:
            return values[self.name]
        return _remade(self.value, {key: values[name] for key, name in self.parts.items()})


@dataclass(frozen=True)
class Inputs:
    """The inputs of a model.

    Attributes:
        given: as the caller gave them. values: by name, one level down.
        args, kwargs: what the model is called with. axes: which axis of an input is its samples' (None: it has none).
        numbers: inputs of whole numbers that the model counts with, as it does with pixels; others are looked up, as ids are.
        shared: inputs of one sample, among others of several, that every sample is given.
    """

    given: Any = field(repr=False)
    values: dict[str, Any] = field(repr=False)
    args: tuple[Slot, ...]
    kwargs: dict[str, Slot]
    axes: Any = 0
    numbers: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: nn.Module, given: Any, axes: Any = 0) -> Inputs:
        """Read a user's inputs. Raises InputError for what the model's forward does not take."""
        if isinstance(given, Inputs):
            return given
        forward = _signature(model)
        args, kwargs = _arguments(given, forward)
        slots = tuple(Slot.of(_name(forward, i, a, given), a) for i, a in enumerate(args))
        named = {k: Slot.of(k, v) for k, v in kwargs.items()}
        values: dict[str, Any] = {}
        for slot in [*slots, *named.values()]:
            values |= slot.values()
        if values:
            _check_call(model, forward, args, kwargs)
        made = cls(given, values, slots, named, axes)
        made._check_axes()
        return made

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Tensors that have axes."""
        return {k: v for k, v in self.values.items() if isinstance(v, Tensor) and v.ndim}

    @property
    def followed(self) -> dict[str, Tensor]:
        """Tensors whose tokens are followed: all but masks."""
        return {k: t for k, t in self.tensors.items() if k in self.numbers or not is_mask(k, t)}

    @property
    def single(self) -> frozenset[str]:
        """Inputs of one sample, where others have several."""
        sizes = {k: self.batch(k) for k in self.followed}
        return frozenset(k for k, n in sizes.items() if n == 1 < max(sizes.values()))

    @property
    def switches(self) -> frozenset[str]:
        """Inputs of yes and no that are not called masks: pictures of two colours may be such."""
        named = {k for k, t in self.tensors.items() if t.dtype == torch.bool and not k.endswith("mask")}
        return frozenset(named - self.numbers)

    @property
    def caches(self) -> dict[str, Any]:
        """What is neither a tensor nor a plain value: a run may change it."""
        return {k: v for k, v in self.values.items() if not isinstance(v, Tensor) and not _is_plain(v)}

    @property
    def bare(self) -> dict[str, Any]:
        """Values by name, and by the last part of a dotted one where no other has it (`input_ids` of `batch.input_ids`)."""
        last: dict[str, list[str]] = {}
        for name in self.values:
            last.setdefault(name.rpartition(".")[2], []).append(name)
        return {k: self.values[v[0]] for k, v in last.items() if len(v) == 1} | self.values

    def axis(self, name: str) -> Axis:
        """Which axis of an input is its samples', counted from 0."""
        axis: Axis = self._said(name)
        return axis if axis is None else axis % int(self.values[name].ndim)

    def _said(self, name: str) -> Any:
        return self.axes.get(name, 0) if isinstance(self.axes, Mapping) else self.axes

    def batch(self, name: str) -> int:
        """How many samples an input has."""
        axis = self.axis(name)
        return 1 if axis is None else int(self.values[name].shape[axis])

    def first(self, name: str) -> Tensor:
        """An input, its samples first."""
        return first(self.values[name], self.axis(name))

    def replaced(self, values: Mapping[str, Any]) -> Inputs:
        """The same with other values."""
        return dataclasses.replace(self, values={**self.values, **values})

    def arguments(self, values: Mapping[str, Any] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the model is called with for one run: copies of the values; `values` go in the place of theirs, as they are."""
        given = values or {}
        new = {k: given[k] if k in given else _copied(k, v) for k, v in self.values.items()}
        return tuple(s.made(new) for s in self.args), {k: s.made(new) for k, s in self.kwargs.items()}

    def _check_axes(self) -> None:
        """Misuse for an axis that an input does not have, UnknownName for an input that there is not."""
        named = self.axes if isinstance(self.axes, Mapping) else {}
        for name in named:
            if name not in self.tensors:
                raise nearest(str(name), self.tensors, "input of batch_axis")
        for name, t in self.tensors.items():
            axis = self._said(name)
            if axis is not None and (not isinstance(axis, int) or isinstance(axis, bool)):
                raise Misuse(
                    f"batch_axis of {name!r} must be a number, or None if no axis holds the samples; not {axis!r}"
                )
            if axis is not None and not -t.ndim <= axis < t.ndim and (name in named or not is_mask(name, t)):
                raise Misuse(f"input {name!r} has axes 0 to {t.ndim - 1}, so batch_axis={axis} does not exist")


# -- what the caller gave ---------------------------------------------------------------------------------------------


def _signature(model: nn.Module) -> inspect.Signature | None:
    """What the model's forward takes; None where that cannot be told, or is anything."""
    try:
        found = inspect.signature(unwrapped(model).forward)
    except (TypeError, ValueError):
        return None
    anything = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found.parameters.values())
    return None if anything else found


def _arguments(given: Any, forward: inspect.Signature | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments."""
    if isinstance(given, Tensor):
        return (given,), {}
    if isinstance(given, Mapping):
        by_keyword = not _alone(forward) or _takes(forward, (), dict(given))
        return ((), dict(given)) if by_keyword else ((given,), {})
    if _fields(given) is not None:
        whole = isinstance(given, tuple) and not _alone(forward) and _takes(forward, tuple(given), {})
        return (tuple(given) if whole else (given,)), {}
    if isinstance(given, list | tuple) and any(_parts(v) or isinstance(v, Tensor) for v in given):
        one = len(given) > 1 and _alone(forward) and not _takes(forward, tuple(given), {})
        return ((given,) if one else tuple(given)), {}
    raise ModelError(
        f"inputs must be a dict of tensors, a tensor, a tuple of tensors, or a container of tensors that the model takes as "
        f"one argument; not {type(given).__name__}"
    )


def _alone(forward: inspect.Signature | None) -> bool:
    """Whether one argument is all that the forward must be given."""
    if forward is None:
        return False
    needed = [p for p in forward.parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return len(needed) == 1 and needed[0].kind in (needed[0].POSITIONAL_ONLY, needed[0].POSITIONAL_OR_KEYWORD)


def _takes(forward: inspect.Signature | None, args: tuple[Any, ...], kwargs: Mapping[Any, Any]) -> bool:
    try:
        if forward is not None:
            forward.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _check_call(
    model: nn.Module, forward: inspect.Signature | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """InputError where the forward cannot be called like this."""
    if forward is None or _takes(forward, args, kwargs):
        return
    try:
        forward.bind(*args, **kwargs)
    except TypeError as error:
        named = ", ".join(forward.parameters)
        raise InputError(f"{type(unwrapped(model)).__name__}'s forward takes ({named}): {error}") from None


def _name(forward: inspect.Signature | None, i: int, value: Any, given: Any) -> str:
    """The name of a positional argument: of a container, that which the forward has for it."""
    named = [*forward.parameters] if forward is not None else []
    if not isinstance(value, Tensor) and _parts(value) and i < len(named):
        return named[i]
    return "input" if isinstance(given, Tensor) else f"input_{i}"


def first(t: Tensor, axis: Axis) -> Tensor:
    """(batch, ...): a tensor with its samples first."""
    return t[None] if axis is None else t.movedim(axis, 0)


def back(t: Tensor, axis: Axis) -> Tensor:
    """The inverse of `first`."""
    return t[0] if axis is None else t.movedim(0, axis)


def samples_first(output: Any, inputs: Inputs, trail: Trail) -> Any:
    """An output's tensors, samples first, where an input's samples are elsewhere; one of length 1 where it has none."""
    axes = {inputs.axis(name) for name in trail.entered}
    if axes == {0}:
        return output
    return _each(output, lambda t: _sample_first(t, trail, None if axes == {None} else max(a or 0 for a in axes)))


def _sample_first(t: Tensor, trail: Trail, axis: Axis) -> Tensor:
    if axis is None:
        return t if t.ndim and len(t) == 1 else t[None]
    tag = trail.tag(t)
    if tag is None or tag.lost or t.ndim < 2:
        return t
    varies = [d for d in range(t.ndim) if not constant(tag.ids // STRIDE, d)]
    if not varies and len(t) > 1 and axis < t.ndim and t.shape[axis] == 1:
        varies = [axis]  # a batch of one
    return t if len(varies) != 1 else t.movedim(varies[0], 0)


def _each(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An output with every floating tensor in it changed."""
    if isinstance(output, Tensor):
        return change(output) if output.is_floating_point() else output
    if isinstance(output, Mapping):
        changed = {k: _each(v, change) for k, v in output.items()}
        return changed if type(output) is dict else type(output)(**changed)
    if isinstance(output, list | tuple):
        items = [_each(v, change) for v in output]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    return output


# -- containers -------------------------------------------------------------------------------------------------------


def _fields(value: Any) -> dict[Any, Any] | None:
    """What a dataclass or a named tuple holds, by name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Mapping):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    return None


def _parts(value: Any) -> dict[Any, Any] | None:
    """What a container of tensors holds, by key; None for anything else."""
    held = _fields(value)
    if held is None and isinstance(value, Mapping):
        held = dict(value)
    if held is None and isinstance(value, list | tuple):
        held = dict(enumerate(value))
    return held if held and any(isinstance(v, Tensor) for v in held.values()) else None


def _remade(value: Any, new: dict[Any, Any]) -> Any:
    """A container of the same kind with other values; the caller's stays as it is."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(**new)
    if isinstance(value, list | tuple):
        return type(value)(new.values())
    if isinstance(value, Mapping):
        plain = type(value) is dict or not dataclasses.is_dataclass(value)
        make: Callable[..., Any] = type(value)
        return make(new) if plain else make(**new)
    made = copy.copy(value)
    for name, v in new.items():
        object.__setattr__(made, name, v)
    return made


def _is_plain(value: Any) -> bool:
    """Whether nothing in a value can be changed."""
    if isinstance(value, tuple | list):
        return all(_is_plain(v) for v in value)
    return isinstance(value, PLAIN) or callable(value)


def _copied(name: str, value: Any) -> Any:
    """A copy for one run. Raises ModelError for a cache that cannot be copied."""
    if isinstance(value, Tensor):
        return value.clone()
    if _is_plain(value):
        return value
    try:
        return copy.deepcopy(value)
    except Exception as error:
        if name.rpartition(".")[2] not in CACHES:
            return value  # an object that cannot be copied, and holds no keys and values: a handle, a lock
        raise ModelError(
            f"{name} cannot be copied for each run, so the model would change yours ({error}); make it under "
            "torch.no_grad(), or give all tokens instead of a cache"
        ) from error


def ranks(model: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """Which input's name wins where two meet: the order of the forward signature, then the order given."""
    order = [*inspect.signature(model.forward).parameters]
    first = [n.partition(".")[0] for n in names]
    return {
        n: order.index(f) if f in order else len(order) + i for i, (n, f) in enumerate(zip(names, first, strict=True))
    }


def is_mask(name: str, t: Tensor) -> bool:
    """Masks say where tokens are; they are not tokens."""
    return name.endswith("mask") or t.dtype == torch.bool


__all__ = ["CACHES", "Axes", "Inputs", "samples_first"]
