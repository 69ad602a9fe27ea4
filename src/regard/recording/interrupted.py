"""An interrupt may come between any two steps, also while a context is entered or left: what it leaves half done is put back.

A `with` cannot promise that: Python may raise KeyboardInterrupt before the first line of `__exit__`. So whoever begins a run
notes how things are, and where an error ends it they are brought back to that, as often as it takes.
"""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from regard.recording.ambient import eager
from regard.recording.at_work import at_work
from regard.recording.random_state import random_state, set_random_state

P = ParamSpec("P")
T = TypeVar("T")
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
BESIDE = ("_with_kwargs", "_always_called")


def left_as_found(function: Callable[P, T]) -> Callable[P, T]:
    """A function of a model after which, however it ends, modes, hooks and random states are as they were before."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        found = _Found.now(args[0] if args else kwargs.get("model"))
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            on_the_way = _on_the_way(error)
            interrupted = any(isinstance(e, KeyboardInterrupt) for e in on_the_way)
            while True:
                try:
                    for e in on_the_way if interrupted else ():
                        traceback.clear_frames(e.__traceback__)  # contexts that were not left end with their generators
                    found.put_back()
                    break
                except KeyboardInterrupt:
                    continue
            if interrupted and not isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise

    return run


@dataclass(frozen=True)
class _Found:
    """How things were when a run began."""

    model: Any
    modes: int
    recorders: int
    eager_runs: int
    hooks: frozenset[int]
    graded: bool
    random: Any

    @classmethod
    def now(cls, model: Any) -> _Found:
        depth = torch._C._len_torch_function_stack()
        nested = len(at_work.recorders)
        hooks = frozenset(id(h) for _, h in _own_hooks(model)) if nested else frozenset[int]()
        return cls(model, depth, nested, eager.mine, hooks, torch.is_grad_enabled(), random_state(model))

    def put_back(self) -> None:
        while torch._C._len_torch_function_stack() > self.modes:
            torch._C._pop_torch_function_stack()
        del at_work.recorders[self.recorders :]
        eager.count(self.eager_runs)
        for module, hook in _own_hooks(self.model):
            if id(hook) not in self.hooks:
                _take_off(module, hook)
        _forget_taken_off(self.model)
        torch.set_grad_enabled(self.graded)
        set_random_state(self.random)


def _own_hooks(model: Any) -> list[tuple[nn.Module, Any]]:
    """The hooks that runs of this thread have put on a model."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return [
        (module, hook)
        for module in modules
        for name in HOOKS
        for hook in list(getattr(module, name).values())
        if getattr(hook, "regard_thread", None) == threading.get_ident()
    ]


def _take_off(module: nn.Module, hook: Any) -> None:
    for name in HOOKS:
        hooks = getattr(module, name)
        for key in [k for k, h in list(hooks.items()) if h is hook]:
            hooks.pop(key, None)
            for beside in BESIDE:
                getattr(module, f"{name}{beside}", {}).pop(key, None)


def _forget_taken_off(model: Any) -> None:
    """torch takes a hook off in several steps, its own entry first."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        for name in HOOKS:
            for beside in BESIDE:
                kept = getattr(module, f"{name}{beside}", {})
                for key in [k for k in list(kept) if k not in getattr(module, name)]:
                    kept.pop(key, None)


def _on_the_way(error: BaseException | None) -> list[BaseException]:
    """An error, and those before it: on the way of an interrupt another may be raised, by a context that was half entered."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__context__
    return found


__all__ = ["left_as_found"]
