"""What is known of tensors while they live. A look-up asks for the very object, and costs as little as a dict's."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any, Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class _Kept(dict[int, tuple[weakref.ref[Tensor], T]]):
    """What is known, by a tensor's number. What is called when a tensor goes holds it weakly, so that it goes when it is not
    asked any more, and with it what it holds, before garbage is collected."""

    __slots__ = ("__weakref__",)


class ByTensor(Generic[T]):
    """A value for each of some tensors, by identity; it goes when its tensor does.

    >>> import torch
    >>> tags, x = ByTensor[str](), torch.ones(2)
    >>> tags[x] = "x"
    >>> tags.get(x), x.clone() in tags
    ('x', False)
    """

    def __init__(self) -> None:
        self._of = _Kept[T]()
        self._forget = partial(_forget, weakref.ref(self._of))

    def __setitem__(self, tensor: Tensor, value: T) -> None:
        known = self._of.get(id(tensor))
        same = known is not None and known[0]() is tensor
        ref = known[0] if same and known is not None else weakref.ref(tensor, partial(self._forget, id(tensor)))
        self._of[id(tensor)] = ref, value

    def get(self, tensor: Any) -> T | None:
        """The tensor's value, if it has one."""
        found = self._of.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def pop(self, tensor: Tensor) -> None:
        """Forget a tensor's value, if it has one."""
        if self.get(tensor) is not None:
            del self._of[id(tensor)]

    def __getitem__(self, tensor: Tensor) -> T:
        value = self.get(tensor)
        if value is None:
            raise KeyError("nothing is known of this tensor")
        return value

    def __contains__(self, tensor: Any) -> bool:
        return self.get(tensor) is not None

    def __iter__(self) -> Iterator[Tensor]:
        """The tensors that live; also one that only torch itself still holds, which comes back to Python by this."""
        for ref, _ in [*self._of.values()]:
            if (tensor := ref()) is not None:
                if hasattr(tensor, "_fix_weakref"):
                    tensor._fix_weakref()
                yield tensor

    def __len__(self) -> int:
        return len(self._of)


def _forget(kept: weakref.ref[_Kept[Any]], key: int, ref: weakref.ref[Tensor]) -> None:
    """A tensor is gone; another one may have its number by now."""
    of = kept()
    if of is not None and (found := of.get(key)) is not None and found[0] is ref:
        del of[key]
