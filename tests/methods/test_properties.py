"""What holds for every method and every family, whatever the map is worth."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.attribution.table import METHODS
from regard.errors import ModelError, NonFinite, TargetError, UnknownName
from regard.recording import record
from regard.recording.edits import GradientRule, MaskKeys, OneHead, Probabilities, Replace, ReplaceBlock, Scale
from support import capture, families

torch.set_num_threads(1)

NAMES = [m.name for m in regard.methods()]
FEW = {"steps": 3, "samples": 2}
"""Points of a path and draws of noise: what holds here does not rest on their number."""
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in NAMES],
    *[("corrected_attention", {"sign": s}) for s in ("negative", "absolute", "signed")],
    *[("gradient", {"reduce": r}) for r in ("l1", "l2")],
]
PATHS = ("integrated_gradients", "revised_ig", "bti_token", "bti_head", "transition_attention")
"""A point of the path close to zero before a normalisation enlarges rounding; in double precision all is closer, see below."""
FREE = [n for n in families.CASES if not n.startswith("fours")]
"""Families whose batch size is free (the hand-written ones are 4 × 4 × 4 × 4)."""
QUICK = {
    "vit",
    "bert",
    "llama",
    "torch_encoder_sequence_first",
}
"""What `make test` runs of the long lists; `make test-all` runs all."""
PADDED = ["bert", "roberta", "distilbert", "gpt2", "gpt2_left", "llama", "t5", "t5_encoder", "lxmert", "vilt"]


def quick(names: Iterable[str]) -> list[Any]:
    """All names, those that are not QUICK marked long."""
    return [n if n in QUICK or n.startswith("fours") else pytest.param(n, marks=pytest.mark.long) for n in names]


@functools.cache
def case_of(name: str) -> families.Case:
    return families.CASES[name]()


def explain(case: families.Case, method: Any = "gae", inputs: Any = None, target: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    given = case.inputs if inputs is None else inputs
    return regard.explain(case.model, given, case.target if target is None else target, method, **options)


def every(case: families.Case, inputs: Any = None) -> dict[str, dict[str, Tensor]]:
    """All methods and variants: label -> scores by stream."""
    out = dict(zip(NAMES, (e.scores for e in explain(case, NAMES, inputs, **FEW)), strict=True))
    for method, options in VARIANTS[len(NAMES) :]:
        out[f"{method} {next(iter(options.values()))}"] = explain(case, method, inputs, **options).scores
    return out


@functools.cache
def every_of(name: str) -> dict[str, dict[str, Tensor]]:
    return every(case_of(name))


def size(scores: dict[str, Tensor]) -> float:
    return max(float(s.abs().max()) for s in scores.values())


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, scale: float = 0.0) -> None:
    assert set(found) == set(expected)
    scale = max(scale, size(expected))
    for name, e in expected.items():
        assert float((found[name] - e).abs().max()) <= tolerance * scale, name


# -- batches and padding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", quick(FREE))
def test_batch_is_single_and_padding_does_not_matter(name: str) -> None:
    case = case_of(name)
    together = every_of(name)
    for b in range(families.BATCH):
        inputs, kept = families.single(case, b)
        alone = every(case, inputs)
        # Before a LayerNorm the mean of a gradient cancels to rounding; its scale is that of what it is the mean of.
        # So do g ⊙ F of a token that only a pre-norm block reads, and what is made of it.
        wide = {"gradient": size(alone["gradient l2"]) / 4}
        wide |= dict.fromkeys(("odam", "difference_map"), size(alone["layer_cam"]))
        for label, scores in alone.items():
            mine = {k: v[b : b + 1, kept[k]] for k, v in together[label].items()}
            assert all(mine[k].shape == scores[k].shape for k in scores), label
            try:
                assert_close(mine, scores, 1e-4 if label in PATHS else 1e-5, scale=wide.get(label, 0.0))
            except AssertionError as e:
                raise AssertionError(f"{label}, sample {b}") from e


@pytest.mark.parametrize("name", ["vit", "bert", "llama", "t5", "lxmert", "vilt", "torch_encoder_sequence_first"])
def test_along_a_path_batch_is_single_in_double_precision(name: str) -> None:
    case = families.CASES[name]()
    case.model.double()
    double = lambda t: t.double() if t.is_floating_point() else t  # noqa: E731
    single = isinstance(case.inputs, Tensor)
    case.inputs = double(case.inputs) if single else {k: double(v) for k, v in case.inputs.items()}
    for method in ("integrated_gradients", "revised_ig"):
        together = explain(case, method, steps=3).scores
        for b in range(families.BATCH):
            inputs, kept = families.single(case, b)
            alone = explain(case, method, inputs, steps=3).scores
            assert_close({k: v[b : b + 1, kept[k]] for k, v in together.items()}, alone, 1e-6)


@pytest.mark.parametrize("name", quick(PADDED))
def test_padded_tokens_score_exactly_zero(name: str) -> None:
    case = case_of(name)
    for label, scores in every_of(name).items():
        for stream, hidden in case.hidden.items():
            assert (scores[stream][hidden] == 0).all(), label


@pytest.mark.parametrize("name", quick(PADDED))
def test_what_stands_under_the_padding_does_not_matter(name: str) -> None:
    case = case_of(name)
    if name == "gpt2":
        pytest.skip("GPT-2's classification head finds the last token by the padding id")
    inputs = dict(case.inputs)
    inputs["input_ids"] = torch.where(case.hidden["input_ids"], 17, inputs["input_ids"])
    if name == "roberta":
        inputs["input_ids"] = torch.where(case.hidden["input_ids"], 1, inputs["input_ids"])
    for (label, before), after in zip(every_of(name).items(), every(case, inputs).values(), strict=True):
        null = label in ("gradient", "odam", "difference_map")  # to rounding
        assert_close(after, before, 1e-4 if label in PATHS else 1e-5, scale=1e-3 if null else 0.0)


# -- the model is left as found ---------------------------------------------------------------------------------------


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


@pytest.fixture
def method() -> Iterator[Callable[..., str]]:
    """Register methods for the length of a test."""
    made: list[str] = []

    def register(function: Callable[..., Any]) -> str:
        made.append(f"test_method_{len(made)}")
        regard.register(made[-1], function)
        return made[-1]

    yield register
    for name in made:
        del METHODS[name]


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


@pytest.mark.parametrize("name", quick(families.CASES))
@pytest.mark.parametrize("measure", ["lazy", "full"])
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


# -- faithful ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", families.CASES)
def test_the_watched_run_is_the_models_own(name: str) -> None:
    case = case_of(name)
    faithful = explain(case).receipt.faithful
    if case.bit_identical:
        assert faithful == 0.0
    assert faithful <= 1e-6
    torch.manual_seed(0)
    recorded = record(case.model, case.inputs).output
    torch.manual_seed(0)
    with torch.no_grad():
        plain = case.model(**case.inputs) if isinstance(case.inputs, dict) else case.model(case.inputs)
    gap = float((case.target(recorded) - case.target(plain)).detach().abs().max())
    assert gap == 0.0 if case.bit_identical else gap <= 1e-6


# -- how the user calls it --------------------------------------------------------------------------------------------

CORE = ["vit", "bert", "gpt2", "llama", "t5", "lxmert", "swin", "torch_encoder", "fours_bmm"]


@pytest.mark.parametrize("name", quick(CORE))
def test_works_under_no_grad_and_with_frozen_parameters(name: str) -> None:
    case = families.CASES[name]()
    expected = explain(case, NAMES, **FEW)
    with torch.no_grad():
        quiet = explain(case, NAMES, **FEW)
    case.model.requires_grad_(False)
    frozen = explain(case, NAMES, **FEW)
    for e, q, f in zip(expected, quiet, frozen, strict=True):
        assert_close(q.scores, e.scores, 0.0)
        # frozen weights take other kernels: float32 rounding (1.1e-6 seen with one thread)
        assert_close(f.scores, e.scores, 1e-5, scale=1e-3 if e.method == "gradient" else 0.0)
    with torch.no_grad():
        both = explain(case, "gae", measure="full")
    assert_close(both.scores, expected[NAMES.index("gae")].scores, 1e-6)


class Adding(nn.Module):
    """Adds positions to the words' embeddings, in place or not: the same model."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_place, self.words = in_place, nn.Embedding(20, 16)
        self.positions = nn.Parameter(torch.randn(1, 6, 16))
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        if self.in_place:
            x += self.positions
        else:
            x = x + self.positions
        return self.head(self.encoder(x).mean(1))


@pytest.mark.parametrize("frozen", [False, True])
def test_embeddings_that_the_model_changes_in_place(frozen: bool) -> None:
    inputs = {"input_ids": torch.arange(12).view(2, 6)}
    model = Adding(True).eval().requires_grad_(not frozen)
    found = regard.explain(model, inputs, method=NAMES, **FEW)
    for e, f in zip(regard.explain(Adding(False).eval(), inputs, method=NAMES, **FEW), found, strict=True):
        assert_close(f.scores, e.scores, 1e-5)
        if e.receipt.attribution_target is not None:
            assert_close({"T": f.receipt.attribution_target}, {"T": e.receipt.attribution_target}, 1e-5)


def cast(inputs: Any, dtype: torch.dtype) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(dtype)
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


@pytest.mark.parametrize("name", quick(CORE))
def test_float64_and_bfloat16_models(name: str) -> None:
    """bfloat16 keeps 8 bits: through two layers a map may move by some per cent of its largest value, here up to 15 %."""
    case = families.CASES[name]()
    few = FEW | (
        {"steps": 8} if name == "t5" else {}
    )  # with three nodes its RMSNorm is close to zero, and blows rounding up
    case.model.bfloat16()
    rounded = cast(cast(case.inputs, torch.bfloat16), torch.float32)
    names = [n for n in NAMES if n not in ("gradient", "odam", "difference_map")]  # zero to rounding in some models
    half = explain(case, names, cast(case.inputs, torch.bfloat16), **few)
    case.model.float()
    single = explain(case, names, rounded, **few)
    case.model.double()
    double = explain(case, names, cast(rounded, torch.float64), **few)
    for h, s, d in zip(half, single, double, strict=True):
        assert all(x.dtype == torch.float32 for e in (h, s, d) for x in e.scores.values())
        assert_close(d.scores, s.scores, 1e-4)
        try:
            assert_close(h.scores, s.scores, 0.25 if h.method in PATHS else 0.15)  # PATHS come close to zero
        except AssertionError as e:
            raise AssertionError(h.method) from e


@pytest.mark.parametrize("name", quick(["vit", "bert", "lxmert"]))
def test_lists_of_methods_and_targets_are_flat_and_share_one_forward(name: str) -> None:
    case = families.CASES[name]()
    targets = [case.target, lambda out: -2 * case.target(out)]
    forwards: list[int] = []
    handle = case.model.register_forward_hook(lambda m, i, o: forwards.append(1))
    torch.manual_seed(0)
    names = [m.name for m in regard.methods() if m.passes.startswith("1 forward") and "steps" not in m.passes]
    assert len(names) >= 9
    flat = regard.explain(case.model, case.inputs, targets, names)
    assert len(forwards) == 1
    handle.remove()
    assert [e.method for e in flat] == [m for m in names for _ in targets]
    for i, e in enumerate(flat):
        one = explain(case, e.method, target=targets[i % 2])
        assert_close(e.scores, one.scores, 1e-6, scale=1e-3 if e.method == "gradient" else 0.0)
        torch.testing.assert_close(e.receipt.target_value, one.receipt.target_value)
    assert isinstance(explain(case, "gae"), regard.Explanation)
    assert isinstance(explain(case, ["gae"]), list)
    assert isinstance(explain(case, "gae", target=[case.target]), list)


def test_targets_by_class_agree() -> None:
    case = case_of("bert")
    expected = explain(case).scores
    for target in (1, torch.tensor([1, 1]), regard.Target.logit(1)):
        assert_close(explain(case, target=target).scores, expected, 0.0)
    torch.manual_seed(0)
    exp = regard.explain(case.model, case.inputs)
    assert torch.equal(exp.receipt.predicted, case.model(**case.inputs).logits.argmax(-1))
    assert torch.equal(exp.receipt.explained, exp.receipt.predicted)
    assert "predicted" in exp.receipt.target


def test_an_ids_tensor_or_tuple_is_taken_by_position() -> None:
    case = case_of("torch_encoder")
    one = regard.explain(case.model, case.inputs, 1)
    assert_close({"cls": regard.explain(case.model, (case.inputs,), 1).scores["cls"]}, {"cls": one.scores["cls"]}, 0.0)
    assert set(regard.explain(case.model, (case.inputs,), 1).scores) == {"cls", "input_0"}


# -- identities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", families.CASES)
def test_gae_is_the_positive_correction(name: str) -> None:
    case = case_of(name)
    walk = explain(case, "gae", form="walk")
    assert_close(walk.scores, explain(case, "corrected_attention", sign="positive").scores, 0.0)


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2", "swin", "clip_vision"])
def test_contrast_under_positive_is_the_reverse_under_negative(name: str) -> None:
    case = case_of(name)
    if name in ("gpt2", "clip_vision"):
        key = {"gpt2": "logits", "clip_vision": "image_embeds"}[name]
        one, two = (lambda out: out[key][:, 2] - out[key][:, 0]), (lambda out: out[key][:, 0] - out[key][:, 2])
    else:
        one, two = regard.Target.contrast(2, 0), regard.Target.contrast(0, 2)
    positive = explain(case, "corrected_attention", target=one, sign="positive")
    negative = explain(case, "corrected_attention", target=two, sign="negative")
    assert_close(positive.scores, negative.scores, 1e-6)
    assert size(positive.scores) > 1e-3


@pytest.mark.parametrize("name", families.CASES)
def test_edges_add_up_at_every_call(name: str) -> None:
    """absolute = positive + negative; signed = positive − negative; Σ_j (A⊙G)_ij = <dO_i, O_i>."""
    from regard.attribution.attention.edge_rules import EDGES

    case = case_of(name)
    torch.manual_seed(0)
    recording = record(case.model, case.inputs)
    for call in recording.gradients(case.target(recording.output)).calls:
        r = torch.rand(call.shape[0], call.shape[2], generator=torch.Generator().manual_seed(0))
        E = {n: call.pull(r, EDGES[n]) for n in ("positive", "negative", "absolute", "signed")}
        torch.testing.assert_close(E["absolute"], E["positive"] + E["negative"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(E["signed"], E["positive"] - E["negative"], rtol=1e-5, atol=1e-7)
        _, A, G = call.rows(torch.arange(call.shape[2]))
        dots = (call.canonical(call.dO) * call.canonical(call.output)).sum(-1)
        torch.testing.assert_close((A * G).sum(-1), dots, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2_left", "lxmert", "swin"])
def test_rows_of_the_rollout_keep_their_mass(name: str) -> None:
    """E + I row-normalised is stochastic: a roll-out row sums to 1 over all streams."""
    scores = explain(case_of(name), "rollout").scores
    total = torch.stack([s.sum(1) for s in scores.values()]).sum(0)
    torch.testing.assert_close(total, torch.ones(families.BATCH))
    assert all((s >= 0).all() for s in scores.values())


@pytest.mark.parametrize("name", quick(families.CASES))
def test_the_receipt_adds_up(name: str) -> None:
    case = case_of(name)
    for exp in explain(case, NAMES, **FEW):
        receipt = exp.receipt
        total = torch.stack([s.sum(1) for s in exp.scores.values()]).sum(0)
        torch.testing.assert_close(receipt.attribution_sum, total, rtol=1e-4, atol=1e-5)
        if receipt.site == "none":
            assert receipt.attribution_target is None
            continue
        torch.testing.assert_close(receipt.attribution_target, receipt.target_value - receipt.baseline_value)
        error = (receipt.attribution_sum - receipt.attribution_target).abs()
        torch.testing.assert_close(receipt.attribution_error, error)


def test_the_baseline_of_the_attention_family_is_the_output_of_all_calls_zeroed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = case_of("bert")
    exp = explain(case, "gae")
    found = exp.receipt.baseline_value
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: real(*a, **k) * 0)
    with torch.no_grad():
        expected = case.target(case.model(**case.inputs))
    torch.testing.assert_close(found, expected)


def test_the_baseline_of_input_x_gradient_is_zero() -> None:
    case = case_of("vit")
    exp = explain(case, "input_x_gradient")
    with torch.no_grad():
        expected = case.target(case.model(pixel_values=torch.zeros_like(case.inputs["pixel_values"])))
    torch.testing.assert_close(exp.receipt.baseline_value, expected)


def test_input_x_gradient_decomposes_a_linear_function() -> None:
    """Attention with one token only is linear in its values: Σ a = y − y(0) exactly."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v = nn.Linear(8, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            v = self.v(x)
            uniform = x * 0
            return F.scaled_dot_product_attention(uniform, uniform, v)[:, 0]

    model = families.strong(Linear())
    exp = regard.explain(model, families.noise(2, 5, 8), 1, "input_x_gradient")
    assert (exp.receipt.relative_error < 1e-5).all()


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_train_mode_is_refused() -> None:
    case = families.vit()
    case.model.vit.train()
    with pytest.raises(ModelError, match=r"train mode.*eval\(\)"):
        explain(case)
    assert case.model.vit.training
    assert isinstance(explain(case, training=True), regard.Explanation)


def test_a_model_without_attention_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with pytest.raises(ModelError, match="no attention"):
        regard.explain(model, torch.randn(2, 4))


def test_flash_attention_out_of_sight_names_the_remedy() -> None:
    class Flash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(_attn_implementation="flash_attention_2")
            self.linear = nn.Linear(4, 2)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.linear(input_ids)

    with pytest.raises(ModelError, match=r"set_attn_implementation\(\"sdpa\"\)"):
        regard.explain(Flash().eval(), {"input_ids": torch.randn(2, 4)})


def test_a_traced_module_is_refused() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)[:, 0]

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Plain().eval(), torch.randn(2, 3, 4))
    with pytest.raises(ModelError, match="traced"):
        regard.explain(traced, torch.randn(2, 3, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers(bad: float) -> None:
    case = families.bert()
    with torch.no_grad():
        case.model.classifier.bias.fill_(bad)
    with pytest.raises(NonFinite, match="not a finite number"):
        explain(case)


def test_inference_mode_is_refused() -> None:
    case = case_of("bert")
    with torch.inference_mode(), pytest.raises(ModelError, match="inference_mode"):
        explain(case)


def test_inputs_made_in_inference_mode_are_taken() -> None:
    case = case_of("vit")
    with torch.inference_mode():
        made = {k: v.clone() for k, v in case.inputs.items()}
    assert_close(explain(case, inputs=made).scores, explain(case).scores, 0.0)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"method": "gea"}, UnknownName, "gae"),
        ({"method": "gae", "sgn": 1}, UnknownName, "option"),
        ({"method": "corrected_attention", "sign": "positiv"}, UnknownName, "positive"),
        ({"method": "gradient", "reduce": "max"}, UnknownName, "reduce"),
        ({"readout": "clss"}, UnknownName, "cls"),
        ({"readout": 99}, regard.RegardError, "out of range"),
        ({"readout": torch.ones(3)}, regard.RegardError, "weights"),
        ({"measure": "later"}, UnknownName, "lazy"),
        ({"target": 99}, TargetError, "out of range"),
        ({"target": torch.tensor([0, 1, 2])}, TargetError, "one class a sample"),
        ({"target": lambda out: out["logits"]}, TargetError, "one number a sample"),
        ({"target": "cat"}, regard.RegardError, "label"),
        ({"target": regard.Target.logit(0, output="scores")}, TargetError, "logits"),
        ({"method": []}, regard.RegardError, "empty"),
    ],
)
def test_wrong_words_are_answered_clearly(options: dict[str, Any], error: type, says: str) -> None:
    with pytest.raises(error, match=says) as raised:
        explain(case_of("bert"), **options)
    assert isinstance(raised.value, regard.RegardError)
    assert "\n" not in str(raised.value)


def test_a_target_that_does_not_depend_on_attention() -> None:
    case = case_of("bert")
    with pytest.raises(ModelError):
        explain(case, target=lambda out: out["logits"].detach()[:, 0])
    with pytest.raises(ModelError):
        explain(case, target=lambda out: out["logits"][:, 0] * 0)


def test_a_model_under_its_own_no_grad_is_refused() -> None:
    class Closed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        @torch.no_grad()
        def forward(self, input_ids: Tensor) -> Tensor:
            return self.inner(input_ids=input_ids).logits

    with pytest.raises(ModelError, match="no_grad"):
        regard.explain(Closed(case_of("bert").model).eval(), {"input_ids": families.ids(2, 5)}, 0)


def test_register_refuses_a_taken_name_and_an_unknown_field() -> None:
    with pytest.raises(regard.RegardError, match="exists already"):
        regard.register("gae", lambda context: context.r)
    with pytest.raises(UnknownName):
        regard.register("brand_new", lambda context: context.r, papre="x")
    assert "brand_new" not in METHODS


def test_a_registered_method_is_used(method: Callable[..., str]) -> None:
    name = method(lambda context, power=1.0: context.tokens()[None] * power + context.recording.zeros())
    exp = explain(case_of("bert"), name, power=3.0)
    assert torch.equal(exp.scores["input_ids"], torch.where(case_of("bert").hidden["input_ids"], 0.0, 3.0))


# -- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_wide", "dinov2", "bert", "lxmert"])
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Any) -> None:
    for exp in explain(case_of(name), ["corrected_attention", "rollout", "input_x_gradient"], sign="signed"):
        path = tmp_path / f"{exp.method}.safetensors"
        exp.save(path)
        back = regard.Explanation.load(path)
        assert same(back.scores, exp.scores)
        assert (back.method, back.target, back.grid, back.signed, back.options) == (
            exp.method,
            exp.target,
            exp.grid,
            exp.signed,
            exp.options,
        )
        one, two = exp.receipt.as_dict(), back.receipt.as_dict()
        assert {k: str(v) for k, v in one.items()} == {k: str(v) for k, v in two.items()}


# -- provenance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", families.LAYOUTS)
def test_axes_are_followed_where_all_lengths_are_four(layout: str) -> None:
    case = case_of(f"fours_{layout}")
    seen = regard.inspect(case.model, case.inputs)
    assert [(s.name, s.tokens, s.kind) for s in seen.streams] == [("input", 4, "input")]
    assert [(c.query, c.key, c.heads, c.shape, c.kind) for c in seen.calls] == [
        ("input:4", "input:4", 4, (4, 4), "self")
    ] * 2
    recording = record(case.model, case.inputs)
    for call in recording.calls:
        assert call.shape == (4, 4, 4, 4)
        assert torch.equal(call.samples, torch.arange(4))


def test_hand_written_layouts_agree_with_each_other() -> None:
    expected = every(case_of("fours_heads"))
    for layout in ("bmm", "einsum", "sdpa"):
        for (label, e), found in zip(expected.items(), every(case_of(f"fours_{layout}")).values(), strict=True):
            assert_close(found, e, 1e-5, scale=1e-4 if label == "gradient" else 0.0)


def test_permuting_the_tokens_permutes_the_map() -> None:
    """Tokens carry no positions here: the map of row 2 = permuted[0] becomes, permuted, the map of row 0."""
    model = families.fours("bmm").model
    x = families.noise(4, 4, 16, seed=11)
    permuted = torch.tensor([2, 0, 3, 1])
    before = regard.explain(model, x, 1, "raw_attention", readout=2).scores["input"]
    after = regard.explain(model, x[:, permuted], 1, "raw_attention", readout=0).scores["input"]
    assert_close({"input": after}, {"input": before[:, permuted]}, 1e-5)


# -- edits ------------------------------------------------------------------------------------------------------------


def logits(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out["logits"] if "logits" in out else out["question_answering_score"]


def recorded(case: families.Case, *edits: Any) -> Any:
    torch.manual_seed(0)
    return record(case.model, case.inputs, edits=edits)


EDITED = ["vit", "bert", "gpt2", "gpt2_left", "llama", "t5", "lxmert", "swin", "torch_encoder",
          *[f"fours_{x}" for x in families.LAYOUTS]]  # fmt: skip


@pytest.mark.parametrize("name", EDITED)
def test_edits_that_change_nothing(name: str) -> None:
    """Scale(1), Probabilities(identity), GradientRule(1): outputs and gradients are the model's own."""
    case = case_of(name)
    plain = recorded(case)
    expected = plain.gradients(case.target(plain.output))
    ones: list[Any] = [Scale(1.0), Probabilities(lambda A, call: A), GradientRule(torch.ones_like)]
    for edit in ones:
        run = recorded(case, edit)
        size = max(1.0, float(logits(plain.output).detach().abs().max()))
        torch.testing.assert_close(logits(run.output), logits(plain.output), rtol=1e-5, atol=1e-6 * size)
        found = run.gradients(case.target(run.output))
        for stream, g in expected.inputs.items():
            scale = float(g.abs().max())
            gap = float((found.inputs[stream] - g).abs().max())
            assert gap <= 1e-4 * scale + 1e-7, (type(edit).__name__, stream)


@pytest.mark.parametrize("name", EDITED)
def test_scale_zero_silences_calls(name: str) -> None:
    case = case_of(name)
    run = recorded(case, Scale(0.0))
    assert all((c.output == 0).all() for c in run.calls)
    one = recorded(case, Scale(0.0, [1]))
    assert [bool((c.output == 0).all()) for c in one.calls][:2] == [False, True]


def test_scale_zero_equals_zeroed_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("vit")
    found = logits(recorded(case, Scale(0.0, [1])).output)
    real, count = F.scaled_dot_product_attention, []

    def second_is_zero(*args: Any, **kwargs: Any) -> Tensor:
        count.append(1)
        return real(*args, **kwargs) * (len(count) != 2)

    monkeypatch.setattr(F, "scaled_dot_product_attention", second_is_zero)
    with torch.no_grad():
        torch.testing.assert_close(found, case.model(**case.inputs).logits)


@pytest.mark.parametrize("name", ["vit", "bert_full", "llama", "torch_encoder"])
def test_probabilities_can_be_replaced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row looks at the first key only."""
    case = case_of(name)

    def first(A: Tensor, call: Any) -> Tensor:
        assert A.shape == call.shape
        return F.one_hot(torch.zeros(A.shape[:-1], dtype=torch.int64), A.shape[-1]).float()

    found = logits(recorded(case, Probabilities(first)).output)

    def hand(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        return value[..., :1, :].expand(*query.shape[:-1], value.shape[-1])

    monkeypatch.setattr(F, "scaled_dot_product_attention", hand)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            plain = case.model(**case.inputs) if isinstance(case.inputs, dict) else case.model(case.inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    torch.testing.assert_close(found, logits(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bert_full", "gpt2_right", "lxmert"])
def test_masked_keys_are_the_attention_mask(name: str) -> None:
    if name == "gpt2_right":
        case = families.gpt2_left()
        case.inputs = {"input_ids": families.ids(2, 6)}
        case.target = lambda out: out["logits"][:, 2, 7]
    else:
        case = families.CASES[name]()
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1]])[:, : case.streams["input_ids"]]
    case.inputs = {k: v for k, v in case.inputs.items() if k not in ("attention_mask", "position_ids")}
    plain = recorded(case)
    hidden = torch.zeros(2, plain.rows, dtype=torch.bool)
    hidden[:, plain.stream("input_ids").rows] = mask == 0
    found = case.target(recorded(case, MaskKeys(hidden)).output)
    inputs = case.inputs | {"attention_mask": mask}
    if name == "gpt2_right":
        inputs["position_ids"] = torch.arange(6).expand(2, 6)
    with torch.no_grad():
        expected = case.target(case.model(**inputs))
    assert float((case.target(plain.output) - expected).detach().abs().max()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2", "torch_encoder"])
def test_one_head_over_the_full_width(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(name)
    found = logits(recorded(case, OneHead()).output)
    assert float((found - logits(recorded(case).output)).detach().abs().max()) > 1e-3

    def hand(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
             is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
        heads = query.shape[1]
        q, k, v = (t.transpose(1, 2).flatten(2) for t in (query, key, value))
        mask = None if attn_mask is None else attn_mask[:, 0]
        O = capture.eager(q, k, mask, is_causal, (query.shape[-1] * heads) ** -0.5) @ v
        return O.unflatten(-1, (heads, -1)).transpose(1, 2)

    monkeypatch.setattr(F, "scaled_dot_product_attention", hand)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            plain = case.model(**case.inputs) if isinstance(case.inputs, dict) else case.model(case.inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    torch.testing.assert_close(found, logits(plain), rtol=1e-5, atol=1e-6)


FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "positive": lambda G: (G > 0).float(),
    "negative": lambda G: -(G < 0).float(),
    "absolute": torch.sign,
}


class RuledAttention(torch.autograd.Function):
    """METHODS.md section 4 by hand: G′ = M⊙G enters dS = A⊙(G′ − Σ_k A G′); dV′ = (A⊙M)ᵀ dO."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, value: Tensor, factor: Callable[[Tensor], Tensor]) -> Tensor:
        A = capture.SOFTMAX(scores, -1)
        ctx.save_for_backward(A, value)
        ctx.factor = factor
        return A @ value

    @staticmethod
    def backward(ctx: Any, dO: Tensor) -> tuple[Tensor, Tensor, None]:
        A, value = ctx.saved_tensors
        G = dO @ value.transpose(-1, -2)
        M = ctx.factor(G)
        changed = M * G
        dS = A * (changed - (A * changed).sum(-1, keepdim=True))
        return dS, (A * M).transpose(-1, -2) @ dO, None


@pytest.mark.parametrize("sign", FACTORS)
@pytest.mark.parametrize("name", ["vit", "bert", "llama"])
def test_gradient_rule_is_the_complete_correction(name: str, sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(name)
    run = recorded(case, GradientRule(FACTORS[sign]))
    stream = next(iter(case.inputs))
    found = run.gradients(case.target(run.output)).inputs[stream]
    plain = recorded(case)
    before = plain.gradients(case.target(plain.output)).inputs[stream]

    def hand(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
             is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
        each = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(each, 1) for t in (key, value))
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
        if attn_mask is not None:
            scores = torch.where(attn_mask, scores, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return RuledAttention.apply(scores, value, FACTORS[sign])

    monkeypatch.setattr(F, "scaled_dot_product_attention", hand)
    expected = twins_gradient(case, stream)
    assert float((expected - before).abs().max()) > 1e-3 * float(before.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def twins_gradient(case: families.Case, stream: str) -> Tensor:
    """Plain autograd at pixels or at word embeddings."""
    kept: list[Tensor] = []
    inputs = dict(case.inputs)
    handle = None
    if stream in case.embeddings:

        def keep(module: nn.Module, args: Any, out: Tensor) -> None:
            kept.append(out)

        handle = case.embeddings[stream].register_forward_hook(keep)
    else:
        kept.append(inputs[stream].clone().requires_grad_())
        inputs[stream] = kept[0]
    try:
        return torch.autograd.grad(case.target(case.model(**inputs)).sum(), kept[0])[0]
    finally:
        if handle is not None:
            handle.remove()


def test_replaced_inputs_and_word_embeddings_are_used() -> None:
    case = case_of("vit")
    other = families.noise(2, 3, 16, 16, seed=21)
    edit = Replace({"pixel_values": other})
    run = recorded(case, edit)
    assert edit.used == {"pixel_values"}
    with torch.no_grad():
        torch.testing.assert_close(logits(run.output), case.model(pixel_values=other).logits)

    case = case_of("bert")
    other = families.noise(2, 6, 16, seed=22)
    edit = Replace({"input_ids": other})
    run = recorded(case, edit)
    assert edit.used == {"input_ids"}
    with torch.no_grad():
        mask = case.inputs["attention_mask"]
        torch.testing.assert_close(logits(run.output), case.model(inputs_embeds=other, attention_mask=mask).logits)
    assert set(run.leaves) == {"input_ids"}


def test_a_replaced_block_is_used() -> None:
    case = case_of("vit")
    seen = regard.inspect(case.model, case.inputs)
    assert [(len(b.calls), b.visit) for b in seen.blocks] == [(1, 0), (1, 0)]
    value = families.noise(2, 17, 16, seed=23)
    run = recorded(case, ReplaceBlock(seen.blocks[0].module, value))
    block = case.model.get_submodule(seen.blocks[0].module)
    handle = block.register_forward_hook(lambda m, i, out: (value, *out[1:]) if isinstance(out, tuple) else value)
    try:
        with torch.no_grad():
            expected = case.model(**case.inputs).logits
    finally:
        handle.remove()
    torch.testing.assert_close(logits(run.output), expected)
    assert float((expected - logits(recorded(case).output)).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_an_edited_run_leaves_the_model_as_found(name: str) -> None:
    case = families.CASES[name]()
    before = state(case.model, case.inputs)
    for edit in (Scale(0.0), Probabilities(lambda A, call: A), GradientRule(torch.sign), OneHead()):
        recorded(case, edit)
    torch.set_rng_state(before["rng"])
    assert_unchanged(before, state(case.model, case.inputs))


def test_a_compiled_model_is_watched_inside_and_compared_as_compiled() -> None:
    case = families.vit()
    runs: list[int] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            runs.append(1)
            return graph.forward(*args)

        return run

    compiled = torch.compile(case.model, backend=backend)
    exp = regard.explain(compiled, case.inputs, case.target)
    expected = regard.explain(case.model, case.inputs, case.target)
    assert runs == []
    assert_close(exp.scores, expected.scores, 1e-6)
    assert exp.receipt.faithful <= 1e-6
    assert runs
