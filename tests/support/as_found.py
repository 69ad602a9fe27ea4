"""What a run must leave as it found it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support import families

torch.set_num_threads(1)


def state(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """Everything of a model, its inputs and the process that a run could leave changed."""
    tensors = inputs if isinstance(inputs, dict) else {"input": inputs}
    out: dict[str, Any] = {
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()],
        "grad is": [id(p.grad) for p in model.parameters() if p.grad is not None],
        "version": [t._version for t in (*model.parameters(), *model.buffers())],
        "identity": [id(t) for t in (*model.parameters(), *model.buffers())],
        "hooks": [
            {k: (id(v), list(v)) for k, v in vars(m).items() if k.endswith(("_hooks", "_kwargs", "_always_called"))}
            for m in model.modules()
        ],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "kernel": getattr(getattr(model, "config", None), "_attn_implementation", None),
        "rng": torch.get_rng_state(),
        "inputs": {k: (id(v), v._version, v.requires_grad, v.grad, v.clone()) for k, v in tensors.items()},
        "grad mode": torch.is_grad_enabled(),
        "modes": torch._C._len_torch_function_stack(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "sdpa": (F.scaled_dot_product_attention, torch.softmax, F.softmax, F.multi_head_attention_forward),
    }
    return out


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert [k for k in before if not same(before[k], after[k])] == []


def prepared(name: str) -> families.Case:
    """A fresh case with a user's own hooks, gradients, and a frozen parameter."""
    case = families.CASES[name]()
    parameters = list(case.model.parameters())
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.ones_like(parameters[-1])
    case.model.register_forward_hook(lambda m, i, o: None)
    linear = next(m for m in case.model.modules() if isinstance(m, nn.Linear))
    linear.register_full_backward_hook(lambda m, i, o: None)
    return case
