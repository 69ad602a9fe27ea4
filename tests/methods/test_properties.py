"""What holds for every method and every family, whatever the map is worth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.recording import record
from support import families
from support.as_found import same
from support.every_method import (
    CORE,
    FEW,
    FREE,
    NAMES,
    PADDED,
    PATHS,
    assert_close,
    case_of,
    every,
    every_of,
    explain,
    quick,
    size,
)

torch.set_num_threads(1)

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


@pytest.mark.parametrize("name", quick(CORE, ["bert"]))
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


@pytest.mark.parametrize("frozen", [False, pytest.param(True, marks=pytest.mark.long)])
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


@pytest.mark.parametrize("name", quick(CORE, ["bert", "fours_bmm"]))
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


@pytest.mark.parametrize("name", quick(["vit", "bert", "lxmert"], ["vit"]))
def test_lists_of_methods_and_targets_are_flat_and_share_one_forward(name: str) -> None:
    case = families.CASES[name]()
    targets = [case.target, lambda out: -2 * case.target(out)]
    forwards: list[int] = []
    handle = case.model.register_forward_hook(lambda m, i, o: forwards.append(1))
    torch.manual_seed(0)
    names = [
        m.name
        for m in regard.methods()
        if m.passes.startswith("1 forward") and not (m.only_of or " x " in m.passes or "written out" in m.passes)
    ]
    ruled = [
        m.name for m in regard.methods() if m.rules
    ]  # gradients flow otherwise: a run of their own for each rule set
    assert len(names) >= 9 + len(ruled)
    flat = regard.explain(case.model, case.inputs, targets, names)
    assert len(forwards) == 1 + len(ruled)
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
