"""An interrupt may come at any time: it leaves no hook, no mode and no other random numbers behind."""

from __future__ import annotations

import random
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils.hooks import RemovableHandle

import regard
from regard.recording.random_state import set_random_state
from regard.recording.recorder import Recorder
from support import families
from support.as_found import same, state

torch.set_num_threads(1)

HOW: list[tuple[str, str, dict[str, Any]]] = [
    ("vit", "gae", {"measure": "full"}),
    ("vit", "integrated_gradients", {"steps": 4}),
    ("bert", "attnlrp", {}),
    ("bert", "bti_head", {"steps": 2}),
    ("bert", "occlusion", {}),
    ("vit", "smoothgrad", {"samples": 3}),
    ("torch_encoder", "corrected_attention", {"correction": "complete"}),
]

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers"),
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # of a weak reference, Python drops them
]


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """A KeyboardInterrupt after so many seconds of work, wherever the program then is, as Ctrl-C raises it."""
    before = signal.signal(signal.SIGVTALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def interrupts(count: int, seed: int) -> tuple[int, list[str]]:
    """How many explanations were interrupted, and what each left behind."""
    draw, found, stopped = random.Random(seed), [], 0
    cases = {name: families.CASES[name]() for name, _, _ in HOW}
    takes = {}
    for name, method, options in HOW:
        case = cases[name]
        for _ in range(2):
            started = time.thread_time()
            regard.explain(case.model, case.inputs, case.target, method, **options)
            takes[name, method] = time.thread_time() - started
    for n in range(count):
        name, method, options = HOW[n % len(HOW)]
        case, delay = cases[name], max(1e-4, draw.uniform(0, takes[name, method]))
        before = state(case.model, case.inputs)
        try:
            with interrupted_after(delay):
                regard.explain(case.model, case.inputs, case.target, method, **options)
        except KeyboardInterrupt as e:
            stopped += 1
            where = " < ".join(f.name for f in reversed(traceback.extract_tb(e.__traceback__)[-6:]))
        except Exception as e:
            found.append(f"{n} {name} {method}: {type(e).__name__}: {e}")
            traceback.print_exc()
            where = ""
        after = state(case.model, case.inputs)
        if wrong := [k for k in before if not same(before[k], after[k])]:
            found.append(f"{n} {name} {method}: {wrong} in {where}")
            cases = {name: families.CASES[name]() for name, _, _ in HOW}
            while torch._C._len_torch_function_stack():
                torch._C._pop_torch_function_stack()
    return stopped, found


def test_interrupts_leave_nothing_behind() -> None:
    stopped, found = interrupts(30, seed=1)
    assert found == []
    assert stopped > 15


@pytest.mark.long
def test_many_interrupts_leave_nothing_behind() -> None:
    stopped, found = interrupts(300, seed=2)
    assert found == []
    assert stopped > 150


@pytest.mark.parametrize("at", ["remove", "between", "mode", "grad", "random"])
def test_what_an_interrupt_left_half_done_is_put_back(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts at the worst places: while hooks are taken off, and while contexts are left."""
    case = families.CASES["vit"]()
    before = state(case.model, case.inputs)
    calls: list[int] = []

    def once(real: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not calls:
                calls.append(1)
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return wrapper

    if at == "remove":
        monkeypatch.setattr(RemovableHandle, "remove", once(RemovableHandle.remove))
    elif at == "between":
        monkeypatch.setattr(RemovableHandle, "remove", half_removed(calls))
    elif at == "mode":
        monkeypatch.setattr(Recorder, "__exit__", once(Recorder.__exit__))
    elif at == "grad":
        monkeypatch.setattr(torch.enable_grad, "__exit__", once(torch.enable_grad.__exit__))
    else:
        monkeypatch.setattr("regard.recording.random_state.set_random_state", once(set_random_state))
    with pytest.raises(KeyboardInterrupt):
        regard.explain(case.model, case.inputs, case.target, ["gae", "smoothgrad"], samples=2)
    assert calls
    after = state(case.model, case.inputs)
    assert [k for k in before if not same(before[k], after[k])] == []


def half_removed(calls: list[int]) -> Any:
    """A hook's handle that is interrupted between its steps."""
    real = RemovableHandle.remove

    def remove(self: Any) -> None:
        if not calls:
            calls.append(1)
            self.hooks_dict_ref().pop(self.id)
            raise KeyboardInterrupt
        real(self)

    return remove
