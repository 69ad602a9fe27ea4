"""Models that cannot be watched are refused before a run, each by name, with its reason and its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import ModelError
from regard.recording.graph import upstream, written_by_hand


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside wrappers that compute the same: `torch.compile`'s, DataParallel, DistributedDataParallel."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inside := getattr(model, "_orig_mod", None), nn.Module):
            model = inside
        else:
            return model


def _no_module(model: Any) -> str:
    """What is said of something else: a name, a reader, an exported program."""
    what = type(model).__name__
    if isinstance(model, str):
        return f"{model!r} is a name, not a model: load it, as in regard.load({model!r}).explain(...)"
    hint = "; pass the module that it was exported from" if what == "ExportedProgram" else ""
    if isinstance(getattr(model, "model", None), nn.Module):
        hint = "; a reader explains by itself: reader.explain(...)"
    return f"the model must be an nn.Module, not {what}{hint}"


def refuse(model: Any, training: bool) -> None:
    """Models that cannot be watched as they are, each with its reason and its remedy."""
    if not isinstance(model, nn.Module):
        raise ModelError(_no_module(model))
    if around := _transform():
        raise ModelError(f"gradients cannot be taken inside {around}; call this outside of it")
    model = unwrapped(model)
    for name, module in model.named_modules():
        if reason := _out_of_sight(module):
            raise ModelError(f"{_part(name)} is {reason}")
    _refuse_tensors(model)
    at_work = [name or type(model).__name__ for name, m in model.named_modules() if m.training]
    if at_work and not training:
        raise ModelError(
            f"the model is in train mode ({at_work[0]}): dropout would make the run random; call model.eval() first, "
            "or pass training=True"
        )


def _transform() -> str:
    """What is at work around the call in which gradients cannot be taken, or values not be read; "" where nothing is."""
    if torch.is_inference_mode_enabled():
        return "torch.inference_mode()"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a function transform (torch.func.grad, vjp, jvp, jacrev or vmap)"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace"
    modes = [type(m).__name__ for m in torch.utils._python_dispatch._get_current_dispatch_mode_stack()]
    if any(m in ("ProxyTorchDispatchMode", "FakeTensorMode", "FunctionalTensorMode") for m in modes):
        return "a trace of tensor operations (make_fx, torch.export)"
    return "torch.compile" if torch.compiler.is_compiling() else ""


def _part(name: str) -> str:
    return f"the module {name}" if name else "the model"


def _out_of_sight(module: nn.Module) -> str:
    """Why a module's operations cannot be seen, or pass no gradient; "" where nothing is known against it."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a traced or scripted module, whose operations cannot be seen; pass the original module"
    if isinstance(module, torch.fx.GraphModule) and _is_exported(module):
        return (
            "an exported program, whose operations are not the model's own; pass the module that it was exported from"
        )
    if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
        return (
            f"quantised ({type(module).__name__} of torch.ao), and its kernels pass no gradient; explain the model as it was "
            "before, or quantise its weights only"
        )
    if any(c.__name__ == "FullyShardedDataParallel" for c in type(module).__mro__):
        return (
            "sharded by FullyShardedDataParallel, which flattens its parameters; pass the model as it was before, or use "
            "fully_shard"
        )
    return ""


def _is_exported(module: torch.fx.GraphModule) -> bool:
    """Whether its graph is of aten operations, as torch.export makes it; one traced by torch.fx calls what the model calls."""
    return any(isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes)


def _refuse_tensors(model: nn.Module) -> None:
    """Parameters and buffers that no gradient can pass, or that hold no numbers."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, t in tensors:
        if t.is_inference():
            raise ModelError(
                f"the model's {name} was made inside torch.inference_mode(), and no gradient passes it; make or load the model "
                "outside of it"
            )
        if t.is_meta and not _is_offloaded(model, name):
            raise ModelError(f"the model's {name} is on the meta device, so it has no values; load the weights first")


def _is_offloaded(model: nn.Module, name: str) -> bool:
    """Whether a hook (accelerate's) puts the tensor in place while its module runs."""
    parts = name.split(".")[:-1]
    return any(hasattr(model.get_submodule(".".join(parts[:i])), "_hf_hook") for i in range(len(parts) + 1))


def refuse_reentrant(output: Any, calls: str) -> None:
    """`torch.utils.checkpoint(use_reentrant=True)` runs a part without a graph, and refuses gradients at tensors."""
    if any(node.name() == "CheckpointFunctionBackward" for node in upstream([t.grad_fn for t in floats_in(output)])):
        raise ModelError(
            f"attention calls {calls} ran inside torch.utils.checkpoint with use_reentrant=True, where no gradient can be "
            "read; use use_reentrant=False, or switch checkpointing off"
        )


def refuse_enclosed(output: Any, calls: str) -> None:
    """The gradient of a torch.autograd.Function of the model's own passes by a cut that is made in attention inside of it."""
    if any(map(written_by_hand, upstream([t.grad_fn for t in floats_in(output)]))):
        raise ModelError(
            f"attention calls {calls} ran inside a torch.autograd.Function of the model's own, whose gradient passes by the "
            "cut that this proof makes in them; let the model run the same without that function"
        )


def floats_in(output: Any) -> Iterator[Tensor]:
    """Every floating tensor in a model's output."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for v in output.values():
            yield from floats_in(v)
    elif isinstance(output, list | tuple):
        for v in output:
            yield from floats_in(v)


def difference(watched: Iterable[Tensor], plain: Any) -> float:
    """max |output difference| over all floating tensors of two outputs."""
    pairs = list(zip(watched, floats_in(plain), strict=False))
    return max(
        (float((a.float() - b.detach().float()).abs().max()) for a, b in pairs if a.numel()), default=float("nan")
    )
