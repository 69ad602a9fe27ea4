"""Precision, devices and wrappers: half precision, frozen, compiled, quantised, adapted, offloaded and sharded models.

Each is explained as the plain model is, or refused by one sentence that says what to do. Generated over a few families.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import regard
from regard.errors import ModelError, NonFinite
from support.alike import FAMILIES, Stack, X, assert_same, cast, each_family, explain, hooks

transformers = pytest.importorskip("transformers")

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")

# -- precision --------------------------------------------------------------------------------------------------------


def assert_close_to_rounded(half: list[regard.Explanation], exact: list[regard.Explanation], bits: int) -> None:
    """A half-precision map against the float32 map of the very same (rounded) weights and inputs.

    What is left is the rounding of activations: each of the some 30 rounded operations on the way (two layers, forward and
    back) is off by at most u = 2^-bits in proportion. If these errors were independent they would add up to sqrt(30) u, about
    5 u; an error that is amplified by attention's exponential and by products of G and A counts several times more. So: the
    direction within 1 - cos <= (16 u)² / 2, and no token off by more than 32 u of the largest score.
    """
    u = 2.0**-bits
    for h, e in zip(half, exact, strict=True):
        a, b = (torch.cat([x.scores[s].flatten().cpu() for s in e.scores]) for x in (h, e))
        assert a.dtype == b.dtype == torch.float32
        cosine = float(F.cosine_similarity(a, b, 0))
        assert 1 - cosine <= (16 * u) ** 2 / 2, f"{h.method}: cosine {cosine}"
        assert float((a - b).abs().max()) <= 32 * u * float(b.abs().max()), h.method
        assert h.receipt.faithful == 0.0


@each_family
def test_bfloat16(name: str) -> None:
    """bfloat16 keeps 8 significant bits."""
    case = FAMILIES[name]()
    case.model.bfloat16()
    inputs = cast(case.inputs, torch.bfloat16)
    half = explain(case, inputs=inputs)
    case.model.float()
    assert_close_to_rounded(half, explain(case, inputs=cast(inputs, torch.float32)), 8)


@each_family
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_float16(name: str, device: str) -> None:
    """float16 keeps 11 significant bits."""
    case = FAMILIES[name]()
    case.model.half().to(device)
    inputs = {k: v.to(device) for k, v in cast(case.inputs, torch.float16).items()}
    half = explain(case, inputs=inputs)
    case.model.float()
    assert_close_to_rounded(half, explain(case, inputs=cast(inputs, torch.float32)), 11)


@each_family
def test_float64(name: str) -> None:
    case = FAMILIES[name]()
    expected = explain(case)
    case.model.double()
    assert_same(explain(case, inputs=cast(case.inputs, torch.float64)), expected, 1e-3)


@CUDA
@each_family
def test_cpu_is_cuda(name: str) -> None:
    case = FAMILIES[name]()
    expected = explain(case)
    case.model.cuda()
    found = explain(case, inputs={k: v.cuda() for k, v in case.inputs.items()})
    assert all(s.is_cuda for e in found for s in e.scores.values())
    assert_same(found, expected, 1e-4)


@each_family
def test_autocast_around_the_call(name: str) -> None:
    """The run, and every check of it, also one that is run later, is in the caller's precision."""
    case = FAMILIES[name]()
    with torch.autocast("cpu", torch.bfloat16):
        inside = explain(case, measure="lazy")
    assert inside[0].receipt.faithful == 0.0
    plain = explain(case, measure="lazy")
    with torch.autocast("cpu", torch.bfloat16):
        assert plain[0].receipt.faithful <= 1e-6
    a, b = (torch.cat([s.flatten() for s in e[0].scores.values()]) for e in (inside, plain))
    assert float(F.cosine_similarity(a, b, 0)) > 0.99
    assert not torch.equal(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_none(bad: float, dtype: torch.dtype) -> None:
    case = FAMILIES["bert"]()
    with torch.no_grad():
        case.model.bert.encoder.layer[1].output.dense.weight[0, 0] = bad
    with pytest.raises(NonFinite, match="not a finite number"):
        explain(case, case.model.to(dtype))


def test_an_overflow_of_half_precision_is_told() -> None:
    case = FAMILIES["bert"]()
    with torch.no_grad():
        case.model.classifier.weight.mul_(1e6)
    with pytest.raises(NonFinite, match="not a finite number"):
        explain(case, case.model.half())


# -- what gradients need ----------------------------------------------------------------------------------------------


@each_family
def test_frozen_parameters(name: str) -> None:
    """Nothing asks for a gradient: ids, pixels and embeddings are explained all the same, and stay as they are."""
    case = FAMILIES[name]()
    expected = explain(case)
    case.model.requires_grad_(False)
    assert_same(explain(case), expected)
    assert not any(p.requires_grad for p in case.model.parameters())
    assert not any(t.requires_grad for t in case.inputs.values())


@each_family
def test_no_grad_around_the_call(name: str) -> None:
    case = FAMILIES[name]()
    expected = explain(case)
    with torch.no_grad():
        assert_same(explain(case), expected, 0.0)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_embeddings_in_place_of_ids(name: str, frozen: bool) -> None:
    case = FAMILIES[name]()
    expected = explain(case)
    case.model.requires_grad_(not frozen)
    inputs = dict(case.inputs)
    inputs["inputs_embeds"] = case.model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    for f, e in zip(explain(case, inputs=inputs), expected, strict=True):
        scores = dict(e.scores)
        e.scores = {"inputs_embeds" if k == "input_ids" else k: v for k, v in scores.items()}
        assert_same([f], [e])


def inside_inference_mode(model: nn.Module) -> nn.Module:
    """The same model, as it is when made or loaded inside torch.inference_mode()."""
    with torch.inference_mode():
        return copy.deepcopy(model)


@each_family
def test_inference_mode(name: str) -> None:
    """Around the call, and for parameters that were made in it: refused. For inputs that were made in it: taken."""
    case = FAMILIES[name]()
    with torch.inference_mode():
        inputs = {k: v.clone() for k, v in case.inputs.items()}
        for call in (regard.explain, regard.record, regard.inspect):
            with pytest.raises(ModelError, match=r"inside torch\.inference_mode\(\); call this outside"):
                call(case.model, case.inputs, case.target)
    assert_same(explain(case, inputs=inputs), explain(case), 0.0)
    made = inside_inference_mode(case.model)
    with pytest.raises(ModelError, match=r"was made inside torch\.inference_mode\(\).* make or load the model"):
        explain(case, made)


def test_a_buffer_made_in_inference_mode() -> None:
    case = FAMILIES["bert"]()
    with torch.inference_mode():
        case.model.bert.embeddings.position_ids = case.model.bert.embeddings.position_ids.clone()
    with pytest.raises(ModelError, match=r"the model's bert\.embeddings\.position_ids was made inside"):
        explain(case)


# -- wrapped, offloaded, sharded --------------------------------------------------------------------------------------


@each_family
def test_data_parallel(name: str) -> None:
    case = FAMILIES[name]()
    expected = explain(case)
    assert_same(explain(case, nn.DataParallel(case.model)), expected, 0.0)
    with pytest.raises(ModelError, match="train mode"):
        explain(case, nn.DataParallel(case.model.train()))


@contextmanager
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
@pytest.mark.filterwarnings("ignore")
def test_distributed_wrappers() -> None:
    """DistributedDataParallel is unwrapped; fully_shard puts its parameters in place while a module runs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    case = FAMILIES["vit"]()
    expected = explain(case)
    with one_process():
        assert_same(explain(case, nn.parallel.DistributedDataParallel(case.model)), expected, 0.0)
        mesh, sharded = init_device_mesh("cpu", (1,)), copy.deepcopy(case.model)
        fully_shard(sharded, mesh=mesh)
        assert_same(explain(case, sharded.eval()), expected, 0.0)
    flat = FullyShardedDataParallel.__new__(FullyShardedDataParallel)  # to make one takes an accelerator
    nn.Module.__init__(flat)
    flat._fsdp_wrapped_module = Stack()
    with pytest.raises(ModelError, match=r"sharded by FullyShardedDataParallel.*or use fully_shard"):
        regard.explain(flat, X, 1)


def offloaded(model: nn.Module, how: str, folder: Any) -> nn.Module:
    accelerate = pytest.importorskip("accelerate")
    if how == "cpu":
        return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    if how == "disk":
        return accelerate.disk_offload(model, folder, execution_device=torch.device("cpu"))
    children = [n for n, m in model.named_children() if [*m.parameters()]]
    places = {n: "disk" if i % 2 else "cpu" for i, n in enumerate(children)}
    places |= {n: "cpu" for n, _ in model.named_parameters(recurse=False)}
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)


@pytest.mark.filterwarnings("ignore")
def test_every_method_under_another_default_dtype() -> None:
    case, names = FAMILIES["vit"](), [m.name for m in regard.methods() if m.name != "random" and not m.only_of]
    few = {"steps": 2, "samples": 2}
    expected = regard.explain(case.model, case.inputs, case.target, names, **few)
    torch.set_default_dtype(torch.float64)
    try:
        found = regard.explain(case.model, case.inputs, case.target, names, **few)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(found, expected, strict=True):
        size = max(float(v.abs().max()) for v in b.scores.values())
        for name, scores in b.scores.items():
            assert a.scores[name].dtype == torch.float32, a.method
            assert float((a.scores[name] - scores).abs().max()) <= 1e-4 * size + 1e-7, a.method


@pytest.mark.parametrize(
    ("name", "how"), [*((n, "cpu") for n in FAMILIES), *((n, h) for n in ("vit", "t5") for h in ("disk", "dispatched"))]
)
def test_offloaded_weights(name: str, how: str, tmp_path: Any) -> None:
    """Hooks put the weights in place while a module runs, as new tensors. Names and streams stay, and so do the hooks."""
    case = FAMILIES[name]()
    expected = explain(case)
    model = offloaded(case.model, how, tmp_path)
    with torch.no_grad():
        model(**case.inputs)  # a run of its own unties weights
    before = {n: (m.forward, getattr(m, "_hf_hook", None)) for n, m in model.named_modules()}
    places = {n: p.device for n, p in model.named_parameters()}
    assert torch.device("meta") in places.values() or how == "dispatched"
    assert_same(explain(case, model), expected, 1e-6)
    assert before == {n: (m.forward, getattr(m, "_hf_hook", None)) for n, m in model.named_modules()}
    assert places == {n: p.device for n, p in model.named_parameters()}
    assert not any(hooks(model))


@pytest.mark.filterwarnings("ignore")
def test_a_reader_of_an_offloaded_model() -> None:
    accelerate = pytest.importorskip("accelerate")
    reader = regard.load("zoo/bert-sentiment")
    expected = reader.explain("A fine film.", target="positive").scores["input_ids"]
    offloaded_model = accelerate.cpu_offload(copy.deepcopy(reader.model), execution_device=torch.device("cpu"))
    again = regard.load(offloaded_model, processor=reader.processor)
    torch.testing.assert_close(again.explain("A fine film.", target="positive").scores["input_ids"], expected)


def test_a_model_without_values() -> None:
    case = FAMILIES["bert"]()
    with pytest.raises(ModelError, match="on the meta device, so it has no values; load the weights first"):
        explain(case, case.model.to("meta"))


@each_family
def test_defaults_of_the_user_s(name: str) -> None:
    """Another default device or dtype is the model's to use, and not ours; `meta` stands for a device that is not here."""
    case = FAMILIES[name]()
    expected = explain(case)
    with torch.device("meta"):
        inputs_made_elsewhere_would_fail = torch.zeros(1)
        assert inputs_made_elsewhere_would_fail.is_meta
        if name == "vit":  # the others make their masks and positions on the default device, as their user asks
            assert_same(explain(case), expected, 0.0)
    torch.set_default_dtype(torch.float64)
    try:
        if name in ("vit", "bert"):
            assert_same(explain(case), expected, 1e-5)
    finally:
        torch.set_default_dtype(torch.float32)
