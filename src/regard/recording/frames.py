"""Which module is at work: hooks on every module for the length of a run, taken off after it (also after an error).

They keep the stack of modules, let edits change what a block takes and gives, and show a `Watch` the states between blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from regard.recording.calls.call import Visit
from regard.recording.edits import Edit
from regard.recording.states import Watch, parts
from regard.recording.tokens.contractions import through_linear
from regard.recording.tokens.tracker import Trail


@dataclass
class Block:
    """One visit of an element of a ModuleList that holds attention calls."""

    module: str
    visit: int
    calls: list[int]


@dataclass
class Frames:
    """The modules at work in the recorded thread, innermost last, as dotted paths."""

    names: dict[int, str]
    listed: set[str]
    owner: int = field(default_factory=threading.get_ident)
    stack: list[str] = field(default_factory=list)
    visits: dict[str, int] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    """How deep in the stack the modules are whose output will be replaced unseen."""

    @property
    def mine(self) -> bool:
        """Whether the hook was called by the recorded thread (another thread may run the same model)."""
        return threading.get_ident() == self.owner

    def push(self, name: str, edits: Sequence[Edit]) -> int:
        """A module begins; how often it has begun by now."""
        self.stack.append(name)
        self.visits[name] = visit = self.visits.get(name, 0) + 1
        if any(edit.skips(name, visit - 1) for edit in edits):
            self.skipped.append(len(self.stack))
        return visit

    def pop(self) -> str:
        """The innermost module ends."""
        if self.skipped and self.skipped[-1] == len(self.stack):
            self.skipped.pop()
        return self.stack.pop()

    def block(self) -> Visit | None:
        """The innermost ModuleList element at work."""
        name = next((n for n in reversed(self.stack) if n in self.listed), "")
        return Visit(name, self.visits[name] - 1) if name else None


@contextmanager
def watched(
    model: nn.Module, frames: Frames, edits: Sequence[Edit], trail: Trail, watch: Watch | None = None
) -> Iterator[None]:
    """Hooks on every module for the length of a run: they keep the stack of modules, and apply edits of blocks.

    An `nn.Linear` keeps its rows whatever kernel it runs (a quantised one). `watch` is told what goes into and comes out of
    every element of a list of modules.
    """
    handles = []

    def enter(module: nn.Module, args: Any, kwargs: Any = None) -> tuple[Any, Any] | None:
        # torch registers, and removes, a hook with keywords in two steps: another thread may find it half-way, without them
        if not frames.mine or kwargs is None:
            return None
        name = frames.names[id(module)]
        visit = frames.push(name, edits)
        changed = None
        for edit in edits:
            new = edit.entering(name, visit - 1, args, kwargs)
            if new is not None:
                _take_place(trail, list(new), [args, kwargs])
                changed = args, kwargs = new
        if watch is not None and name in frames.listed:
            watch.see(name, visit - 1, "in", [args, kwargs])
        return changed

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        if not frames.mine or not frames.stack:
            return None
        if isinstance(module, nn.Linear) and args and isinstance(output, Tensor):
            with torch._C.DisableTorchFunction():  # what is asked here is no operation of the model's
                through_linear(trail, args[0], output)
        name = frames.pop()
        changed = None
        for edit in edits:
            new = edit.block(name, frames.visits[name] - 1, output)
            if new is not None:
                _take_place(trail, new, output)
                changed = output = new
        if watch is not None and name in frames.listed:
            watch.see(name, frames.visits[name] - 1, "out", output)
        return changed

    _mark(frames, enter, leave)
    try:
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mark(frames: Frames, *hooks: Any) -> None:
    """Hooks say whose they are (interrupted.py)."""
    for hook in hooks:
        hook.regard_thread = frames.owner


def _take_place(trail: Trail, new: Any, old: Any) -> None:
    """What is put in the place of a block's input or output has the rows of the one whose place it takes."""
    for a, b in zip(parts(new), parts(old), strict=False):
        tag = trail.tag(b)
        if a is not b and tag is not None and a.shape == b.shape:
            trail.put(a, tag)


def list_elements(model: nn.Module) -> set[str]:
    """Dotted paths of the elements of every ModuleList (and Sequential: blocks are kept in those, too)."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for name, _ in module.named_children()
    }
