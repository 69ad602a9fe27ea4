"""Correction, guidance and their identities (formulas.md sections 2 and 4)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import regard
from regard import Guide, Target
from regard.recording.recording import Recording
from support import families
from support.every_method import case_of

torch.set_num_threads(1)
ONE_STREAM = ["vit", "bert", "llama", "swin"]
SEVERAL = ["lxmert", "t5"]
SAMPLED = [pytest.param(n, marks=[] if n in ("vit", "lxmert") else pytest.mark.long) for n in (*ONE_STREAM, *SEVERAL)]
SIGNS = ["positive", "negative", "absolute", "signed"]


def scores(
    case: families.Case, method: str = "corrected_attention", target: Any = None, **options: Any
) -> dict[str, Tensor]:
    found = regard.explain(case.model, case.inputs, target or case.target, method, **options)
    return found.scores  # type: ignore[union-attr]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    size = max(float(t.abs().max()) for t in b.values())
    return all(float((a[k] - b[k]).abs().max()) <= 2e-5 * size for k in b)


def contrast(case: families.Case, c: int, d: int) -> Target:
    def y(output: Any) -> Tensor:
        logits = output.logits if hasattr(output, "logits") else output.question_answering_score
        logits = logits if logits.ndim == 2 else logits[:, -1]
        return logits[:, c] - logits[:, d]

    return Target.of(y, "contrast")


@pytest.mark.parametrize("correction", ["incomplete", "complete"])
@pytest.mark.parametrize("name", SAMPLED)
def test_the_contrast_the_other_way_round_swaps_the_signs(name: str, correction: str) -> None:
    case = case_of(name)
    there, back = contrast(case, 0, 1), contrast(case, 1, 0)
    positive = scores(case, target=there, sign="positive", correction=correction)
    negative = scores(case, target=back, sign="negative", correction=correction)
    assert same(positive, negative)
    assert not same(positive, scores(case, target=there, sign="negative", correction=correction))


def test_signs_add_up_on_one_layer_and_absolute_does_not_keep_its_sign_under_complete_correction() -> None:
    case = case_of("vit")
    last = {"layers": [1], "start_layer": 1}
    p, n, a, s = (scores(case, sign=sign, **last)["pixel_values"] for sign in SIGNS)
    torch.testing.assert_close(a, p + n)
    torch.testing.assert_close(s, p - n)
    there, back = contrast(case, 0, 1), contrast(case, 1, 0)
    incomplete = [scores(case, target=t, sign="absolute") for t in (there, back)]
    complete = [scores(case, target=t, sign="absolute", correction="complete") for t in (there, back)]
    assert same(*incomplete)
    assert not same(*complete)


@pytest.mark.parametrize("correction", ["incomplete", "complete"])
@pytest.mark.parametrize("name", SAMPLED)
def test_complete_is_another_map_and_signed_is_the_plain_gradient(name: str, correction: str) -> None:
    """M = 1 for the full gradient: complete and incomplete are one."""
    case = case_of(name)
    assert same(scores(case, sign="signed", correction=correction), scores(case, sign="signed"))
    if correction == "complete":
        assert not same(scores(case, sign="positive", correction="complete"), scores(case, sign="positive"))


METHODS = [
    ("gae", {}),
    ("gae", {"form": "walk"}),
    ("corrected_attention", {"sign": "absolute"}),
    ("corrected_attention", {"sign": "signed", "correction": "complete"}),
    ("corrected_attention", {"sign": "absolute", "path": "rollout"}),
    ("heterogenous", {"sign": ["positive", "absolute"], "correction": "complete"}),
    ("heterogenous", {"hops": "one"}),
]


@pytest.mark.parametrize(("method", "options"), METHODS)
@pytest.mark.parametrize("name", ["vit", "llama", "swin", *SEVERAL])
def test_a_guide_of_ones_changes_nothing(name: str, method: str, options: dict[str, Any]) -> None:
    case = case_of(name)
    plain = scores(case, method, **options)
    ones = {k: torch.ones(t.shape[1]) for k, t in plain.items()}
    assert same(scores(case, method, guide=ones, **options), plain)


@pytest.mark.parametrize(("method", "options"), METHODS[:6])
@pytest.mark.parametrize("name", ["vit", "llama", *SEVERAL])
def test_a_guide_on_a_region_leaves_nothing_through_other_tokens(
    name: str, method: str, options: dict[str, Any]
) -> None:
    case = case_of(name)
    plain = scores(case, method, **options)
    stream = next(iter(case.inputs))
    m = torch.zeros(plain[stream].shape[1])
    m[1:3] = 1.0
    found = scores(case, method, guide={stream: m}, **options)[stream]
    if options.get("path") != "rollout":  # whose rows keep what they are themselves
        assert float(found[:, m == 0].abs().max()) == 0.0
    assert float(found[:, m == 1].abs().max()) > 0


def test_a_guided_map_is_that_of_the_edges_times_the_guide() -> None:
    """The literal twin on one layer: Σ over the read row of (m⊙G⊙A)₊, mean over heads."""
    case = case_of("vit")
    recording = regard.record(case.model, case.inputs)
    y = case.target(recording.output)
    gradients = recording.gradients(y)
    _, A, G = gradients.calls[1].rows(torch.tensor([0]))
    m = torch.linspace(0, 1, 16)
    whole = torch.cat([torch.ones(1), m])
    expected = (whole * G * A).clamp(min=0).mean(1)[:, 0, 1:]
    found = scores(case, layers=[1], start_layer=1, guide={"pixel_values": m}, sign="positive")["pixel_values"]
    torch.testing.assert_close(found, expected)


def test_masks_boxes_polygons_and_maps_are_the_same_region() -> None:
    case = case_of("vit")  # 16 x 16 pixels, 4 x 4 tokens
    tokens = torch.zeros(4, 4)
    tokens[1:3, 0:2] = 1
    mask = torch.zeros(16, 16)
    mask[4:12, 0:8] = 1
    corners = [(0, 4), (8, 4), (8, 12), (0, 12)]
    ways = [tokens, tokens.flatten(), mask, Guide.box(0, 4, 8, 12), (0, 4, 8, 12), "box:0,4,8,12", Guide.polygon(corners),
            Guide.mask(mask), {"pixel_values": tokens.flatten()}, {"pixel_values": tokens}, {"pixel_values": mask},
            Guide.mask(Image.fromarray((mask * 255).byte().numpy())), Guide.mask(mask.numpy())]  # fmt: skip
    maps = [scores(case, guide=way) for way in ways]
    assert all(same(m, maps[0]) for m in maps)
    assert not same(maps[0], scores(case))


def test_internal_guides() -> None:
    case = case_of("vit")
    exp: Any = regard.explain(case.model, case.inputs, case.target, "corrected_attention", sign="absolute")
    by_map = scores(case, guide=exp)
    by_tensor = scores(case, guide={"pixel_values": exp.scores["pixel_values"]})
    assert same(by_map, by_tensor)
    contrast_map: Any = regard.explain(case.model, case.inputs, Target.contrast(1, 0), "corrected_attention")
    found: Any = regard.explain(case.model, case.inputs, 1, "corrected_attention", guide=Target.contrast(1, 0))
    expected: Any = regard.explain(
        case.model, case.inputs, 1, "corrected_attention", guide={"pixel_values": contrast_map.scores["pixel_values"]}
    )
    assert same(found.scores, expected.scores)
    named: Any = regard.explain(case.model, case.inputs, 1, "corrected_attention", guide="contrast")
    assert "guided by contrast" in named.receipt.notes
    assert named.options["guide"] == "contrast"


def test_a_contrast_is_of_the_place_that_the_target_reads() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes)).eval()
    inputs = {"input_ids": torch.randint(0, 20, (2, 5))}
    for target, contrast_there in (
        (Target.next_token(3, position=2), Target.contrast(3, None, 2)),
        (Target.logit(3, position=1), Target.contrast(3, None, 1)),
    ):
        found: Any = regard.explain(model, inputs, target, "corrected_attention", guide="contrast")
        expected: Any = regard.explain(model, inputs, target, "corrected_attention", guide=contrast_there)
        assert same(found.scores, expected.scores)


@pytest.mark.parametrize("guide", ["contrast", Guide.box(0, 4, 8, 12)])
def test_guided_maps_of_a_batch_are_those_of_its_samples(guide: Any) -> None:
    case = case_of("vit")
    both: Any = regard.explain(case.model, case.inputs, 1, "corrected_attention", guide=guide, correction="complete")
    for i in range(2):
        one: Any = regard.explain(case.model, {"pixel_values": case.inputs["pixel_values"][i : i + 1]}, 1,
                                  "corrected_attention", guide=guide, correction="complete")  # fmt: skip
        torch.testing.assert_close(both.scores["pixel_values"][i], one.scores["pixel_values"][0], rtol=1e-4, atol=1e-8)


def gradients_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The rules of the gradients that are taken from now on."""
    taken: list[Any] = []
    plain = Recording.gradients

    def counted(self: Recording, *args: Any, **how: Any) -> Any:
        taken.append(how.get("correction"))
        return plain(self, *args, **how)

    monkeypatch.setattr(Recording, "gradients", counted)
    return taken


def test_the_maximum_is_that_of_each_sample_without_its_padding() -> None:
    case = case_of("bert")
    ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
    assert not bool(mask.all())
    m = torch.linspace(0.1, 1, ids.shape[1]) ** 2  # its maximum is padding in the shorter one
    each = m.expand(2, -1) + 5 * (1 - mask)
    for guide in (m, each):
        both: Any = regard.explain(case.model, case.inputs, 1, "corrected_attention", guide={"input_ids": guide})
        for i in range(2):
            real = mask[i].bool()
            one: Any = regard.explain(
                case.model,
                {"input_ids": ids[i : i + 1, real], "attention_mask": mask[i : i + 1, real]},
                1,
                "corrected_attention",
                guide={"input_ids": m[real]},
            )
            kept = both.scores["input_ids"][i, real]
            torch.testing.assert_close(kept, one.scores["input_ids"][0], rtol=1e-4, atol=1e-7)
            torch.testing.assert_close(both.guidance.m["input_ids"][i, real], m[real] / m[real].max())
            assert float(both.guidance.m["input_ids"][i, ~real].abs().sum()) == 0


def test_the_passes_of_an_internal_guide_are_those_that_were_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("vit")
    taken = gradients_of(monkeypatch)
    for method, options in [
        ("corrected_attention", {"correction": "complete"}),
        ("heterogenous", {"correction": "complete", "sign": ["positive", "absolute"]}),
        ("corrected_attention", {}),
        ("gae", {}),
    ]:
        for guide in ("contrast", Guide.box(0, 4, 8, 12)):
            taken.clear()
            exp: Any = regard.explain(case.model, case.inputs, 1, method, guide=guide, **options)
            assert exp.receipt.passes == 1 + len(taken), (method, options, guide)


def test_rows_that_are_made_in_parts_take_each_gradient_once(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("bert")
    how = {"correction": "complete", "sign": "absolute"}
    whole: Any = regard.explain(case.model, case.inputs, 1, "corrected_attention", **how)
    parts: Any = regard.explain(case.model, case.inputs, 1, "corrected_attention", memory_budget=1, **how)
    passes, taken = parts.receipt.passes, gradients_of(monkeypatch)
    rows = parts.between("input_ids", "input_ids")
    assert len(taken) == 2  # the model's own, which says where to look, and the corrected one
    assert parts.receipt.passes == passes + 1 + len(taken)
    torch.testing.assert_close(rows, whole.between("input_ids", "input_ids"), rtol=1e-4, atol=1e-7)


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    ("nonsense", {}, "no guide"),
    (Guide.words("red"), {}, "a text that a reader made"),
    (torch.ones(3), {}, "3"),
    (torch.zeros(16), {}, "nowhere positive"),
    ({"nothing": torch.ones(16)}, {}, "stream"),
    (3, {}, "a guide is"),
    (None, {"correction": "whole"}, "correction"),
    (None, {"path": "rollout", "sign": "signed"}, "rollout"),
    (None, {"path": "last"}, "path"),
    (Guide.picture("dog.png"), {}, "reader.explain"),
    (None, {"layers": True}, "layers is a whole number.*True"),
    (None, {"layers": [0, False]}, "layers is a whole number.*False"),
    (Guide.contrast(1.5), {}, "class is a whole number"),
    (Guide.contrast(True), {}, "class is a whole number"),
    (Guide.contrast(99), {}, "class 99 is out of range"),
    (Guide.contrast(torch.tensor([0, 2, 3])), {}, "2 samples with 3 classes"),
    (Guide.contrast(1), {}, "contrasts class 1 with itself"),
    (Guide.contrast(torch.tensor([0, 1])), {}, "contrasts class 1 with itself"),
    (Guide.mask(object()), {}, "made of numbers.*object"),
    (Guide.map(object()), {}, "made of numbers.*object"),
    ({"pixel_values": ["a"]}, {}, "made of numbers.*list"),
    ({"pixel_values": torch.ones(5, 5)}, {}, "5 x 5, and the picture 16 x 16"),
]


OF_ANOTHER_TYPE: list[tuple[str, dict[str, Any], str]] = [
    ("corrected_attention", {"layers": "2"}, "a layer is the number of an attention, from 0 on; not '2'"),
    ("corrected_attention", {"layers": ["2"]}, "a layer is the number of an attention, from 0 on; not '2'"),
    ("corrected_attention", {"layers": 1.5}, "a layer is the number of an attention, from 0 on; not 1.5"),
    ("corrected_attention", {"start_layer": "x"}, "a layer is the number of an attention, from 0 on; not 'x'"),
    ("rollout", {"start_layer": None}, "a layer is the number of an attention, from 0 on; not None"),
    ("gae", {"start_layer": [0]}, "a layer is the number of an attention, from 0 on; not [0]"),
    ("corrected_attention", {"sign": [1, 2]}, "unknown sign '[1, 2]'"),
    ("corrected_attention", {"path": ["rollout"]}, "unknown path '['rollout']'"),
    ("corrected_attention", {"correction": ["complete"]}, "unknown correction '['complete']'"),
    ("heterogenous", {"correction": ["complete"]}, "unknown correction '['complete']'"),
    ("heterogenous", {"path": {}}, "unknown path '{}'"),
    ("heterogenous", {"sign": 5}, "unknown sign '5'"),
    ("heterogenous", {"hops": 1}, "unknown hops '1'"),
    ("heterogenous", {"fusion": ["sum"]}, "unknown fusion '['sum']'"),
]


def test_options_of_another_type_are_refused() -> None:
    """As users call it: in a process of its own, where no types are checked beside ours."""
    script = (
        "import json, sys\nfrom regard.attribution.table import METHODS\nfrom regard.errors import Misuse\n"
        "for name, options, _ in json.loads(sys.argv[1]):\n"
        "    try:\n        METHODS[name].function(**options)\n"
        "    except Misuse as e:\n        print(str(e))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(OF_ANOTHER_TYPE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(OF_ANOTHER_TYPE)
    assert all(
        line.replace('"', "'").startswith(wanted) for line, (_, _, wanted) in zip(said, OF_ANOTHER_TYPE, strict=True)
    ), said


def test_a_contrast_with_one_class_per_sample_is_that_of_each() -> None:
    case = case_of("vit")
    pixels = case.inputs["pixel_values"]
    both = scores(case, target=1, guide=Guide.contrast(torch.tensor([0, 2])))["pixel_values"]
    for i, d in enumerate((0, 2)):
        one: Any = regard.explain(
            case.model, {"pixel_values": pixels[i : i + 1]}, 1, "corrected_attention", guide=Guide.contrast(d)
        )
        torch.testing.assert_close(both[i], one.scores["pixel_values"][0], rtol=1e-4, atol=1e-8)


def test_a_target_that_has_no_contrast_is_refused_with_what_to_do() -> None:
    case = case_of("vit")
    for target in (Target.of(lambda out: out.logits[:, 0] * 2, "twice"),):
        with pytest.raises(regard.RegardError, match=r"twice.*has no contrast.*guide=Target\.of"):
            regard.explain(case.model, case.inputs, target, guide="contrast")


MADE_WRONG = [
    (lambda: Guide.polygon((0, 0), (8, 0), (8, 8)), "list of its corners"),  # type: ignore[arg-type]
    (lambda: Guide.polygon([(0, 0, 1), (8, 0, 1), (8, 8, 1)]), "list of its corners"),  # type: ignore[list-item]
    (lambda: Guide.polygon(7), "list of its corners"),  # type: ignore[arg-type]
    (lambda: Guide.polygon([(0, 0), (float("nan"), 0), (8, 8)]), "finite"),
    (lambda: Guide.polygon([(0, 0), (8, 8)]), "three corners"),
    (lambda: Guide.box("a", 0, 1, 1), "a box is left, top"),  # type: ignore[arg-type]
    (lambda: Guide.box(None, 0, 1, 1), "a box is left, top"),  # type: ignore[arg-type]
    (lambda: Guide.picture("dog.png", within=(0, 0, 1)), "a box is left, top"),
    (lambda: Guide.picture("dog.png", within=3), "a box is left, top"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "said"), MADE_WRONG)
def test_what_is_no_region_is_refused_when_it_is_made(make: Any, said: str) -> None:
    with pytest.raises(regard.RegardError, match=said):
        make()


@pytest.mark.parametrize(("guide", "options", "said"), WRONG)
def test_what_guides_nothing_is_refused(guide: Any, options: dict[str, Any], said: str) -> None:
    case = case_of("vit")
    with pytest.raises(regard.RegardError, match=said):
        regard.explain(case.model, case.inputs, 1, "corrected_attention", guide=guide, **options)


@pytest.mark.parametrize("guide", [None, [1.0, 0.2, 0.7, 0.0, 1.0, 0.4]])
def test_rows_from_token_to_token_are_corrected_and_guided_too(guide: list[float] | None) -> None:
    """The row of the token that is read is the map itself."""
    case = case_of("gpt2")
    stream = next(iter(case.inputs))
    m = None if guide is None else {stream: torch.tensor(guide[: case.inputs[stream].shape[1]])}
    exp: Any = regard.explain(
        case.model, case.inputs, case.target, "corrected_attention", correction="complete", guide=m
    )
    passes = exp.receipt.passes
    last = case.inputs[stream].shape[1] - 1
    rows = exp.between(stream, stream, rows=[last])
    torch.testing.assert_close(rows[0, 0], exp.scores[stream][0], rtol=1e-4, atol=1e-7)  # the other one ends in padding
    assert exp.receipt.passes == passes + 3
