"""What is made past the watch: a function of the user's own, compiled code, what torch.vmap runs. Its gradient stays plain.

Each operation that is seen leaves the place of its outputs in torch's graph. What a later one is handed, and has another place,
was made of something in between; that is read off the graph, down to the places that were left.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from regard.recording.graph import node_of, upstream
from regard.recording.tokens.elementwise import tensors_in

PASSES = {
    "copy_slices", "as_strided", "reshape_alias",
    "unsafe_view", "to_copy", "alias", "lift_fresh", "unsafe_split", "split_with_sizes", "index",
    "copy_backwards", "clone", "add", "sub", "neg", "accumulate_grad", "backward_hook_function",
}  # fmt: skip
"""Nodes of the graph that move, copy or add, beside those that are named as the operation is."""


class Unseen:
    """Which places of the graph are known."""

    def __init__(self, linear: set[str]) -> None:
        self._known: set[Any] = set()
        self._linear = linear | PASSES

    def know(self, out: Any) -> None:
        """What an operation that was seen has given."""
        for t in tensors_in([out]) if isinstance(out, Tensor | list | tuple) else ():
            places = (t.grad_fn, None if t._base is None else t._base.grad_fn)  # `linear` gives a view of what it made
            self._known.update(p for p in places if p is not None)

    def behind(self, t: Tensor) -> list[str]:
        """What has been made past the watch on the way to a tensor, by its names in torch's graph; each is told once."""
        node = node_of(t)
        if node is None or node in self._known:
            return []
        passed = [n for n in upstream([node], lambda n: not self._stops(n)) if not self._stops(n)]
        self._known.update(passed)
        return [n.name() for n in passed if _operation(n) not in self._linear]

    def _stops(self, node: Any) -> bool:
        """Whether a node is known, or was put there by us."""
        ours = getattr(getattr(type(node), "_forward_cls", None), "__module__", "")
        return node in self._known or ours.startswith("regard.")


def _operation(node: Any) -> str:
    """The name of a node of torch's graph, spelled as an operation: MaskedFillBackward0 is `masked_fill`."""
    bare = re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", bare).lower()


__all__ = ["Unseen"]
