"""torch's graph of a run: where a tensor stands in it, and what it was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def node_of(t: Tensor) -> Any:
    """A tensor's place in the graph; None where it has none."""
    return torch.autograd.graph.get_gradient_edge(t).node if t.requires_grad else None


def upstream(nodes: Sequence[Any], through: Callable[[Any], bool] = lambda _node: True) -> Iterator[Any]:
    """Some nodes and all that they were made of, each once; `through` says past which of them the way goes on."""
    ahead = [n for n in nodes if n is not None]
    seen = set(ahead)
    while ahead:
        node = ahead.pop()
        yield node
        if through(node):
            new = {n for n, _ in node.next_functions if n is not None} - seen
            seen |= new
            ahead += new


def written_by_hand(node: Any) -> bool:
    """Whether a place of the graph is a torch.autograd.Function, and not one of ours."""
    made_by = str(getattr(getattr(type(node), "_forward_cls", None), "__module__", ""))
    return isinstance(node, torch.autograd.function.BackwardCFunction) and not made_by.startswith("regard.")


def descends(node: Any, ancestor: Any) -> bool:
    """Whether a node of the graph was made from another one."""
    return ancestor is not None and any(n is ancestor for n in upstream([node]))


__all__ = ["descends", "node_of", "upstream", "written_by_hand"]
