"""The explained number without some of the units: against models that are really given fewer tokens."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.attribution.context import Context
from regard.attribution.integral.baseline_values import reference
from regard.attribution.removal.runs import LEFT_OUT, Without, content, drawn_from, reached, subsets_of_size
from regard.attribution.rerun import Rerun
from regard.baseline import Baseline
from regard.errors import OtherRows
from regard.explanation.raw_inputs import Reading
from regard.recording import record
from regard.target import Target
from support import families
from support import grammar_models as models
from support.dual_encoders import of_clip
from support.grammar_words import alone


def without(name: str, sample: int, baseline: Baseline | None = None) -> tuple[families.Case, Without]:
    case = families.CASES[name]()
    recording = record(case.model, case.inputs)
    again = Rerun(case.model, recording.given, Target.of(case.target), recording.batch)
    gradients = recording.gradients(again.y(recording.output))
    readout = recording.readout(gradients)
    tokens = content(recording, Reading({}), sum(readout.values(), recording.zeros()))[sample]
    unit = torch.full((recording.batch, recording.rows), -1)
    unit[sample] = torch.where(tokens, tokens.cumsum(0) - 1, -1)
    context = Context(recording, gradients, readout, again=again)
    x0 = None if baseline is None else reference(context, baseline)
    return case, Without(again, recording, sample, unit, x0)


def all_subsets(units: int) -> Tensor:
    return torch.tensor([*itertools.product([False, True], repeat=units)])


def test_patches_left_out_are_patches_that_never_were() -> None:
    case, w = without("vit", 1)
    taken = torch.rand(12, w.units, generator=torch.Generator().manual_seed(0)) < 0.5
    vit = case.model.vit
    with torch.no_grad():
        whole = vit.embeddings(case.inputs["pixel_values"][1:])
        for y, away in zip(w.y(taken), taken, strict=True):
            x = whole[:, torch.cat([torch.tensor([True]), ~away])]
            for layer in vit.layers:
                x = layer(x)
            expected = case.model.classifier(vit.layernorm(x)[:, 0])[0, 1]
            assert float(y) == pytest.approx(float(expected), abs=1e-6)


def test_words_left_out_are_words_under_the_mask() -> None:
    case, w = without("bert", 0)
    taken = all_subsets(w.units)
    assert w.units == 5
    at = (w.unit[0] >= 0).nonzero()[:, 0] - w.recording.stream("input_ids").first
    for y, away in zip(w.y(taken), taken, strict=True):
        inputs = {k: v[:1].clone() for k, v in case.inputs.items()}
        inputs["attention_mask"][0, at[away]] = 0
        with torch.no_grad():
            assert float(y) == pytest.approx(float(case.target(case.model(**inputs))), abs=1e-6)


def test_a_filled_patch_is_a_picture_with_that_square_painted() -> None:
    case, w = without("vit", 0, Baseline.mean())
    x = case.inputs["pixel_values"][:1]
    taken = torch.eye(16, dtype=torch.bool)
    for y, patch in zip(w.y(taken), range(16), strict=True):
        row, column = divmod(patch, 4)
        painted = x.clone()
        painted[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = x.mean((2, 3), keepdim=True)
        with torch.no_grad():
            assert float(y) == pytest.approx(float(case.target(case.model(painted))), abs=1e-6)


def test_a_masked_word_is_a_text_with_the_mask_token_there() -> None:
    case, w = without("bert", 1, Baseline.mask_token(7))
    at = (w.unit[1] >= 0).nonzero()[:, 0] - w.recording.stream("input_ids").first
    taken = all_subsets(w.units)
    for y, away in zip(w.y(taken), taken, strict=True):
        inputs = {k: v[1:].clone() for k, v in case.inputs.items()}
        inputs["input_ids"][0, at[away]] = 7
        with torch.no_grad():
            assert float(y) == pytest.approx(float(case.target(case.model(**inputs))), abs=1e-6)


@pytest.mark.parametrize("name", ["lxmert", "t5", "llama", "fours_bmm"])
@pytest.mark.parametrize("baseline", [None, Baseline.zero()])
def test_copies_side_by_side_are_copies_one_by_one(name: str, baseline: Baseline | None) -> None:
    case, w = without(name, 1, baseline)
    taken = torch.cat([torch.zeros(1, w.units, dtype=torch.bool), torch.eye(w.units, dtype=torch.bool)])
    together = w.y(taken)
    torch.testing.assert_close(together, torch.cat([w.y(one[None]) for one in taken]), rtol=0, atol=2e-6)
    with torch.no_grad():
        plain = case.model(**case.inputs) if isinstance(case.inputs, dict) else case.model(case.inputs)
    assert float(together[0]) == pytest.approx(float(case.target(plain)[1]), abs=1e-6)
    assert float((together[1:] - together[0]).abs().max()) > 1e-4


def test_targets_share_runs() -> None:
    _, w = without("vit", 1)
    other = replace(w.again, target=Target.logit(2))
    taken = torch.eye(16, dtype=torch.bool)
    both = w.ys(taken, [w.again, other])
    assert w.runs == 16
    torch.testing.assert_close(both[1], Without(other, w.recording, 1, w.unit).y(taken), rtol=0, atol=1e-6)
    torch.testing.assert_close(both[0], w.y(taken), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "there"), [("vit", False), ("bert", False), ("llama", False), ("dinov2", False), ("swin", True)]
)
def test_what_still_reaches_the_target_is_known(name: str, there: bool) -> None:
    _, w = without(name, 0)
    assert bool(reached(w.again, w.recording, w.unit)[0]) is there


def test_in_half_precision_rounding_is_no_way_to_the_target() -> None:
    case = families.CASES["vit"]()
    case.model.bfloat16()
    inputs = {"pixel_values": case.inputs["pixel_values"].bfloat16()}
    half = regard.explain(case.model, inputs, case.target, "occlusion")
    assert half.receipt.baseline == LEFT_OUT
    case.model.float()
    single = regard.explain(case.model, {"pixel_values": inputs["pixel_values"].float()}, case.target, "occlusion")
    off = (half.scores["pixel_values"] - single.scores["pixel_values"]).abs().max()
    assert float(off) < 0.15 * float(single.scores["pixel_values"].abs().max())


def test_subsets() -> None:
    few = subsets_of_size(6, 2, 49, 0, all_below=200)
    assert len(few) == 15
    assert len(few.unique(dim=0)) == 15
    many = subsets_of_size(64, 7, 49, 3)
    assert many.sum(1).tolist() == [7] * 49
    assert torch.equal(many, subsets_of_size(64, 7, 49, 3))
    assert not torch.equal(many, subsets_of_size(64, 7, 49, 4))
    plain = torch.rand(4, generator=torch.Generator().manual_seed(3))
    assert not torch.equal(plain, torch.rand(4, generator=drawn_from(3, "subsets")))


@pytest.mark.parametrize("move", ["tome", "tome sum"])
def test_tokens_that_are_merged_as_their_values_have_it_are_filled(move: str) -> None:
    net = alone()[f"move {move}"]
    model, x = models.build(net), models.inputs(net)["x"]
    found = regard.explain(model, {"x": x}, 1, "occlusion")
    assert found.receipt.baseline == "zero"
    read = found.receipt.reads[0].first
    expected = torch.zeros(x.shape[:2])
    with torch.no_grad():
        y = model(x=x)[:, 1]
        for sample, token in itertools.product(range(len(x)), range(x.shape[1])):
            if token != read[sample]:  # where the target is read nothing is taken away
                one = x.clone()
                one[sample, token] = 0
                expected[sample, token] = y[sample] - model(x=one)[sample, 1]
    torch.testing.assert_close(found.scores["x"], expected, rtol=0, atol=1e-5)
    with pytest.raises(OtherRows, match="merges other tokens"):
        regard.explain(model, {"x": x}, 1, "attention_mask", steps=2)


class Compared(nn.Module):
    """All pictures with all texts: similarities, or what a softmax over the texts and none of them makes of these."""

    def __init__(self, softmax: bool) -> None:
        super().__init__()
        self.model, self.softmax = of_clip().model, softmax
        self.sizes: list[int] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Any:
        self.sizes.append(len(input_ids))
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)
        if self.softmax:
            scores = out.logits_per_image
            none = torch.zeros(len(scores), 1, dtype=scores.dtype)
            out.logits_per_image = scores - torch.cat([scores, none], 1).logsumexp(1, keepdim=True)
            out.logits_per_text = out.logits_per_image.T
        return out


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients", "revised_ig", "bti_token"])
def test_copies_of_a_pair_are_run_side_by_side(method: str) -> None:
    """Every picture is compared with every text, and each copy's own similarity is taken."""
    case = of_clip()
    one = {k: v[:1] for k, v in case.inputs.items()}
    target = lambda out: out.logits_per_image.diagonal()  # noqa: E731
    fast, slow = Compared(False).eval(), Compared(False).eval()
    found = regard.explain(fast, one, target, method)
    expected = regard.explain(slow, one, target, method, memory_budget=1)
    for stream, scores in expected.scores.items():
        torch.testing.assert_close(found.scores[stream], scores, rtol=1e-4, atol=1e-6 * float(scores.abs().max()))
    assert max(fast.sizes) > 2
    assert max(slow.sizes) <= 2


@pytest.mark.parametrize("method", ["occlusion", "revised_ig"])
def test_copies_that_are_weighed_against_one_another_are_run_one_by_one(method: str) -> None:
    case = of_clip()
    one = {k: v[:1] for k, v in case.inputs.items()}
    target = lambda out: out.logits_per_image.diagonal()  # noqa: E731
    free, small = (regard.explain(Compared(True).eval(), one, target, method, memory_budget=b) for b in (None, 1))
    for stream, scores in small.scores.items():
        torch.testing.assert_close(free.scores[stream], scores, rtol=1e-4, atol=1e-6 * float(scores.abs().max()))
