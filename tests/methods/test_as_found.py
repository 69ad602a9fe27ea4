"""A model is left as it was found, whatever happens, in one thread or in several."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from support import families
from support.as_found import assert_unchanged, prepared, same, state
from support.every_method import FEW, NAMES, case_of, explain, quick

torch.set_num_threads(1)

# -- a run goes with its map ------------------------------------------------------------------------------------------


HOW: dict[str, dict[str, Any]] = {
    "gae": {},
    "corrected_attention": {"correction": "complete"},
    "attnlrp": {},
    "gim": {},
    "integrated_gradients": {"steps": 2},
    "bti_head": {},
}


@pytest.mark.parametrize("name", ["vit", "bert", "lxmert"])
@pytest.mark.parametrize("method", HOW)
def test_no_tensor_of_a_run_waits_for_the_garbage_collector(name: str, method: str) -> None:
    """On an accelerator, what waits for it is memory that the next run does not have."""
    case = case_of(name)
    explain(case, method, **HOW[method])
    gc.collect()
    gc.freeze()  # what is there already is not looked through again
    gc.disable()
    try:
        explain(case, method, **HOW[method])
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [tuple(t.shape) for t in gc.garbage if isinstance(t, Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()
    assert left == []


# -- the model is left as found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", quick(families.CASES))
@pytest.mark.parametrize("measure", ["full", pytest.param("lazy", marks=pytest.mark.long)])
def test_model_is_left_as_found(name: str, measure: str) -> None:
    case = prepared(name) if name != "vilt" else families.vilt()
    before = state(case.model, case.inputs)
    regard.explain(case.model, case.inputs, [case.target, case.target], NAMES, measure=measure, **FEW)
    regard.inspect(case.model, case.inputs)
    assert_unchanged(before, state(case.model, case.inputs))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["vit", "bert", "torch_encoder", "vilt", "lxmert"])
def test_model_is_left_as_found_when_a_method_raises(name: str, error: type, method: Callable[..., str]) -> None:
    def raises(context: Any) -> Tensor:
        torch.rand(3)
        raise error("stop")

    case = families.CASES[name]()
    mine = method(raises)
    before = state(case.model, case.inputs)
    with pytest.raises(error, match="stop"):
        regard.explain(case.model, case.inputs, case.target, ["gae", mine])
    assert_unchanged(before, state(case.model, case.inputs))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [regard.explain, regard.inspect, regard.record])
def test_model_is_left_as_found_when_its_forward_is_interrupted(error: type, call: Callable[..., Any]) -> None:
    case = families.vit()

    def interrupt(x: Tensor) -> Tensor:
        raise error("stop")

    case.model.classifier.forward = interrupt
    before = state(case.model, case.inputs)
    with pytest.raises(error, match="stop"):
        call(case.model, case.inputs)
    assert_unchanged(before, state(case.model, case.inputs))


def test_model_is_left_as_found_when_a_target_raises() -> None:
    case = families.bert()

    def target(output: Any) -> Tensor:
        raise KeyboardInterrupt

    before = state(case.model, case.inputs)
    with pytest.raises(KeyboardInterrupt):
        regard.explain(case.model, case.inputs, target)
    assert_unchanged(before, state(case.model, case.inputs))


def test_inputs_that_want_gradients_keep_theirs() -> None:
    case = families.vit()
    pixels = case.inputs["pixel_values"].requires_grad_()
    pixels.grad = torch.ones_like(pixels)
    exp = regard.explain(case.model, {"pixel_values": pixels}, case.target, "input_x_gradient")
    assert (pixels.grad == 1).all()
    assert pixels.is_leaf
    assert not any(s.requires_grad for s in exp.scores.values())


# -- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair",
    [
        ("vit", "bert"),
        pytest.param(("torch_encoder", "torch_encoder"), marks=pytest.mark.long),
        pytest.param(("t5", "llama"), marks=pytest.mark.long),
        pytest.param(("bert", "bert"), marks=pytest.mark.long),
    ],
)
def test_two_threads_are_as_one_after_the_other(pair: tuple[str, str]) -> None:
    """Two models at once; or, where the names are equal, one and the same model."""
    cases = [case_of(n) for n in pair]
    others = [c.inputs for c in cases]
    if pair[0] == pair[1]:
        others[1] = (
            families.noise(3, 7, 16, seed=9) if isinstance(others[1], Tensor) else {"input_ids": families.ids(3, 9)}
        )
    names = [n for n in NAMES if n != "random"]

    def work(i: int) -> list[dict[str, Tensor]]:
        return [e.scores for e in regard.explain(cases[i].model, others[i], cases[i].target, names, **FEW)]

    expected = [work(i) for i in range(2)]
    before = [state(c.model, x) for c, x in zip(cases, others, strict=True)]
    barrier = threading.Barrier(2)

    def worker(i: int) -> list[list[dict[str, Tensor]]]:
        done = []
        for _ in range(3):
            barrier.wait(30)
            done.append(work(i))
        return done

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(worker, range(2)))
    for i in range(2):
        for found in results[i]:
            assert same(found, expected[i])
        assert_unchanged(before[i], state(cases[i].model, others[i]))


def test_a_plain_forward_in_another_thread_is_not_disturbed() -> None:
    case = case_of("vit")
    with torch.no_grad():
        expected = case.model(**case.inputs).logits
    stop = threading.Event()
    wrong: list[str] = []

    def forward() -> None:
        while not stop.is_set():
            with torch.no_grad():
                out = case.model(**case.inputs).logits
            if not torch.equal(out, expected) or out.requires_grad:
                wrong.append("disturbed")

    thread = threading.Thread(target=forward)
    thread.start()
    try:
        for _ in range(3):
            explain(case, NAMES, **FEW)
    finally:
        stop.set()
        thread.join()
    assert wrong == []
