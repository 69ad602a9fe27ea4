"""Attention-ECLIP and Grad-ECLIP: one map, that of the formulas written out with eager attention; one head is another model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard.attribution.attention import eclip
from regard.attribution.context import Context
from regard.attribution.rerun import Rerun
from regard.errors import Misuse, UnknownName
from regard.recording import record
from regard.report.receipt import lines as receipt_lines
from regard.target import Target
from support import families
from support.dual_encoders import PICTURE, Case, of_clip, of_siglip, of_vit
from support.eclip_twin import by_attention, by_channels, literal, written_out

transformers = pytest.importorskip("transformers")

from transformers.models.siglip import modeling_siglip  # noqa: E402

METHODS = {"attention_eclip": by_attention, "grad_eclip": by_channels}
CASES = {"clip": of_clip, "siglip": of_siglip}
DEFAULT = {"heads": "model", "loosening": "cosine", "layers": 1, "qk": "heads", "qk_range": "content"}


def of_twin(case: Case, method: str, how: dict[str, Any]) -> dict[str, Tensor]:
    """Each stream's map, written out."""
    single = case.single(how["layers"]) if how["heads"] == "single" else []
    with written_out(case.model, case.module, single) as seen:
        y = case.y(case.model(**case.inputs))
    found = {}
    for tower in case.towers:
        layers = [seen[i] for i in tower.calls[: how["layers"]]]
        whole = literal(y, layers, tower.row, tower.keep, METHODS[method], SimpleNamespace(**how))
        found[tower.stream] = whole[:, tower.first :]
    return found


def in_double(case: Case, method: str, **options: Any) -> dict[str, Tensor]:
    """The map of each stream as the method counts it; that of `regard.explain` is in single precision."""
    recording = record(case.model, case.inputs, branches=True)
    again = Rerun(case.model, recording.given, Target.of(case.y), recording.batch)
    y = again.y(recording.output)
    gradients = recording.gradients(y, keep=True)
    context = Context(recording, gradients, recording.readout(gradients), again=again)
    found = getattr(eclip, method)(context, **options)
    return {t.stream: found[:, recording.stream(t.stream).rows] for t in case.towers}


def agree(case: Case, method: str, **options: Any) -> None:
    found = in_double(case, method, **options)
    for stream, expected in of_twin(case, method, DEFAULT | options).items():
        assert float(expected.abs().max()) > 0
        scale = float(expected.abs().max())
        off = float((found[stream] - expected).abs().max())
        assert off <= 1e-10 * scale, f"{method} of {stream}, {options}: off by {off:.2g} of {scale:.2g}"


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("heads", ["model", "single"])
def test_the_map_is_the_one_written_out(family: str, method: str, heads: str) -> None:
    agree(CASES[family](), method, heads=heads)


@pytest.mark.parametrize("heads", ["model", "single"])
@pytest.mark.parametrize(
    "options",
    [
        {"loosening": "none"},
        {"loosening": "softmax"},
        {"loosening": "attention"},
        {"qk": "projected"},
        {"qk_range": "all"},
        {"qk": "projected", "qk_range": "all", "layers": 2},
        {"layers": 3},
    ],
    ids=str,
)
def test_every_option_is_the_one_written_out(options: dict[str, Any], heads: str) -> None:
    agree(of_clip(), "attention_eclip", heads=heads, **options)


def test_a_classifier_has_one_too() -> None:
    agree(of_vit(), "attention_eclip")
    agree(of_vit(), "grad_eclip", layers=2)


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("heads", ["model", "single"])
def test_by_heads_and_by_channels_is_one_map(family: str, heads: str) -> None:
    """The paper's claim, in float32 as people run it, too."""
    case = CASES[family]()
    one, other = (in_double(case, m, heads=heads) for m in METHODS)
    for stream, scores in one.items():
        torch.testing.assert_close(scores, other[stream], rtol=0, atol=1e-10 * float(scores.abs().max()))
    case.model.float()
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in case.inputs.items()}
    one, other = (regard.explain(case.model, inputs, case.y, m, heads=heads).scores for m in METHODS)
    for stream, scores in one.items():
        torch.testing.assert_close(scores, other[stream], rtol=0, atol=1e-5 * float(scores.abs().max() or 1))


def test_one_head_is_another_model_and_the_receipt_says_by_how_much() -> None:
    case = of_clip()
    own = regard.explain(case.model, case.inputs, case.y, "attention_eclip").receipt
    assert own.explained_model is None
    receipt = regard.explain(case.model, case.inputs, case.y, "attention_eclip", heads="single").receipt
    with torch.no_grad():
        before = case.model(**case.inputs).logits_per_image
        with written_out(case.model, case.module, case.single(1)):
            after = case.model(**case.inputs).logits_per_image
    other = receipt.explained_model
    assert other is not None
    assert other.predicted is not None
    assert other.own is not None
    torch.testing.assert_close(other.target_difference, (after - before).diagonal().float(), rtol=1e-5, atol=1e-7)
    assert other.output_difference >= float((after - before).abs().max()) - 1e-9
    assert other.predicted.tolist() == after.argmax(1).tolist()
    assert other.own.tolist() == before.argmax(1).tolist()
    exp = regard.explain(case.model, case.inputs, case.y, "attention_eclip", heads="single")
    lines = {line.name: line for line in receipt_lines(exp, 0)}
    assert "one head each" in lines["explained model"].value
    again = type(receipt).from_dict(receipt.as_dict()).explained_model
    assert again is not None
    assert again.as_dict() == other.as_dict()
    assert other.of_sample(1).target_difference.tolist() == other.target_difference[1:].tolist()
    assert receipt.target_value.double() == pytest.approx(before.diagonal().tolist(), rel=1e-5)


def test_a_map_of_nothing_is_zeros() -> None:
    """All keys alike: λ spans nothing; and a target that falls with every token."""
    case = of_vit()
    last = case.model.vit.layers[-1] if hasattr(case.model.vit, "layers") else case.model.vit.encoder.layer[-1]
    key = next(m for name, m in last.named_modules() if name.endswith(("key", "k_proj")))
    with torch.no_grad():
        key.weight.zero_()
    found = regard.explain(case.model, case.inputs, case.y, "attention_eclip").scores["pixel_values"]
    assert torch.equal(found, torch.zeros_like(found))


def test_a_mean_over_patches_reads_every_row() -> None:
    """No row is left out where all are read, and the products are added before they are clamped."""
    config = transformers.SiglipConfig(vision_config=PICTURE | {"vision_use_head": False}, num_labels=3)
    model = families.strong(transformers.SiglipForImageClassification(config))
    x = families.noise(1, 3, 32, 32, seed=2)
    found = regard.explain(model, {"pixel_values": x}, 1, "attention_eclip", loosening="none").scores["pixel_values"]
    with written_out(model, modeling_siglip) as seen:
        y = model(pixel_values=x).logits[0, 1]
    (G,) = torch.autograd.grad(y, [seen[-1].A])
    torch.testing.assert_close(found, G.sum((1, 2)).clamp(min=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"heads": "one"}, UnknownName, "heads 'one'"),
        ({"loosening": "cos"}, UnknownName, "loosening 'cos'"),
        ({"qk": "after"}, UnknownName, "qk 'after'"),
        ({"qk_range": "77"}, UnknownName, "qk_range '77'"),
        ({"layers": 0}, Misuse, "layers is a whole number from 1 to"),
        ({"layers": 4}, Misuse, "in 3 attentions only"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], words: str) -> None:
    case = of_vit()
    with pytest.raises(error, match=words):
        regard.explain(case.model, case.inputs, case.y, "attention_eclip", **options)


@pytest.mark.parametrize("heads", ["model", "single"])
def test_a_model_that_computes_its_own_softmax(heads: str) -> None:
    """Its queries and keys are found in one more run."""
    case = of_clip()
    fused = in_double(case, "attention_eclip", heads=heads, layers=2)
    case.model.set_attn_implementation("eager")
    eager = in_double(case, "attention_eclip", heads=heads, layers=2)
    for stream, scores in fused.items():
        most = 1e-5 * float(scores.abs().max())  # Transformers' eager softmax is in single precision
        torch.testing.assert_close(eager[stream], scores, rtol=0, atol=most)
