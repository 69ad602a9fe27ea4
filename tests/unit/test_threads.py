"""Threads, surroundings and runs within runs: no explanation dies of another, and nothing stays behind."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.errors import ModelError
from regard.recording.frames import Frames, watched
from regard.recording.tokens.parameter_names import Names
from regard.recording.tokens.tracker import Trail
from support.as_found import assert_unchanged, state
from support.tiny import noise, strong

D = 8


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(D, 3 * D)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return x + (q @ k.mT / D**0.5).softmax(-1) @ v


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(Layer() for _ in range(2)), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


def test_a_hook_survives_being_called_half_registered() -> None:
    """torch notes in a second step that a hook takes keywords: in between, another thread calls it without them."""
    model, found = strong(Net()), []
    frames = Frames({id(m): n for n, m in model.named_modules()}, set())
    with watched(model, frames, [], Trail(Names(model), {1})):
        for module in model.modules():
            module._forward_pre_hooks_with_kwargs.clear()
        other = threading.Thread(target=lambda: found.append(model(noise(1, 4, D))))
        other.start()
        other.join()
    assert len(found) == 1


def test_explaining_one_model_from_several_threads() -> None:
    model, x = strong(Net()), noise(2, 4, D)
    expected = regard.explain(model, x, 1).scores["input"]
    errors: list[BaseException] = []

    def often(what: Callable[[], object], times: int) -> None:
        try:
            for _ in range(times):
                what()
        except BaseException as error:
            errors.append(error)

    def explains() -> None:
        assert torch.equal(regard.explain(model, x, 1).scores["input"], expected)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=often, args=(explains, 3)) for _ in range(2)]
        threads.append(threading.Thread(target=often, args=(lambda: model(x), 60)))
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("gae", {"measure": "full"}),
    ("attnlrp", {}),
    ("integrated_gradients", {"steps": 3}),
    ("occlusion", {}),
    ("smoothgrad", {"samples": 2}),
    ("random", {}),
    ("corrected_attention", {"correction": "complete"}),
]


@pytest.mark.parametrize(("threads", "times"), [(4, 10), pytest.param(8, 100, marks=pytest.mark.long)])
def test_all_threads_find_what_one_finds(threads: int, times: int, tmp_path: Path) -> None:
    """Explanations of one model by several methods, each saved: no error, the same scores and the same receipts."""
    model, inputs = strong(Net()), [noise(2, 4, D, seed=n) for n in range(3)]

    def explained(n: int) -> regard.Explanation:
        method, options = WAYS[n % len(WAYS)]
        return regard.explain(model, inputs[n % len(inputs)], n % 3, method, **options)

    expected = {n: explained(n) for n in range(len(WAYS) * len(inputs))}
    before = state(model, inputs[0])

    def work(thread: int) -> list[str]:
        wrong = []
        for n in range(thread, thread + times):
            found, one = explained(n), expected[n % len(expected)]
            kept = regard.Explanation.load(found.save(tmp_path / f"{thread}.regard"))
            values = [torch.equal(e.scores["input"], one.scores["input"]) for e in (found, kept)]
            if not all(values) or not torch.equal(found.receipt.target_value, one.receipt.target_value):
                wrong.append(f"{n}: {WAYS[n % len(WAYS)][0]}")
        return wrong

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(threads) as pool:
            assert [wrong for found in pool.map(work, range(threads)) for wrong in found] == []
    finally:
        sys.setswitchinterval(interval)
    assert_unchanged(before, state(model, inputs[0]))
    assert len(list(tmp_path.iterdir())) == threads


def body(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: regard.explain(model, x, 1).scores["input"].sum()


def _fx(f: Callable[[Tensor], Tensor], x: Tensor) -> object:
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(f)(x)


AROUND: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], object]] = {
    "grad": lambda f, x: torch.func.grad(f)(x),
    "vjp": lambda f, x: torch.func.vjp(f, x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "vmap": lambda f, x: torch.func.vmap(f)(x[None]),
    "jit.trace": lambda f, x: torch.jit.trace(f, x),
    "make_fx": _fx,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("around", AROUND)
def test_surroundings_in_which_no_gradient_can_be_taken(around: str) -> None:
    model = strong(Net())
    with pytest.raises(ModelError, match=r"gradients cannot be taken inside .*; call this outside of it"):
        AROUND[around](body(model), noise(1, 4, D))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_inside_a_compiled_function() -> None:
    with pytest.raises(ModelError, match=r"inside torch\.compile"):
        torch.compile(body(strong(Net())), backend="eager")(noise(1, 4, D))


def test_an_explanation_inside_a_hook_of_another() -> None:
    outer, inner, x = strong(Net()), strong(Net(), seed=3), noise(2, 4, D)
    alone, other = (regard.explain(m, x, 1).scores["input"] for m in (outer, inner))
    within: list[Tensor] = []
    handle = outer.layers[0].register_forward_hook(
        lambda *_: within.append(regard.explain(inner, x, 1).scores["input"])
    )
    found = regard.explain(outer, x, 1).scores["input"]
    handle.remove()
    assert torch.equal(found, alone)
    assert all(torch.equal(w, other) for w in within)


def test_an_interrupt_leaves_no_mode_behind() -> None:
    model = strong(Net())

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        regard.explain(model, noise(1, 4, D), 1)
    handle.remove()
    assert torch._C._len_torch_function_stack() == 0
    assert regard.explain(model, noise(1, 4, D), 1).receipt.faithful == 0
