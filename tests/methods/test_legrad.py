"""LeGrad beside its formula written out: eager attention, a hook at the last block, gradients by autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.attribution.attention import legrad as home
from regard.attribution.attention.legrad import legrad
from regard.attribution.context import Context
from regard.attribution.rerun import Rerun
from regard.attribution.towers import AsRecorded
from regard.errors import Misuse
from regard.recording import record, recorder
from regard.recording.own_gradients import operation
from regard.target import Target
from support import families
from support.dual_encoders import Case, of_clip, of_siglip, of_vit
from support.eclip_twin import written_out
from support.tiny import Unblocked, noise


def in_double(case: Case, **options: Any) -> dict[str, Tensor]:
    """The map as the method counts it."""
    recording = record(case.model, case.inputs, states=True)
    again = Rerun(case.model, recording.given, Target.of(case.y), recording.batch)
    gradients = recording.gradients_later(again.y(recording.output))
    found = legrad(Context(recording, gradients, {}, again=again), **options)
    return {t.stream: found[:, recording.stream(t.stream).rows] for t in case.towers}


def tensor_of(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def term(case: Case, blocks: Sequence[nn.Module], l: int, call: int, padded: Tensor | None, pooled: bool) -> Tensor:
    """One block's term, (batch, key): the tail reads the mean of its tokens (pooled: the tokens themselves). Rows of padding
    count in no mean."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        kept.append(tensor_of(output))

    def put(_module: nn.Module, _args: Any, output: Any) -> Any:
        value = kept[0]
        if not pooled:
            shown = torch.ones(value.shape[:2]) if padded is None else (~padded).float()
            rows = [(v * m[:, None]).sum(0) / m.sum() for v, m in zip(value, shown.to(value), strict=True)]
            value = torch.stack(rows)[:, None].expand_as(value)
        return value if isinstance(output, Tensor) else (value, *output[1:])

    hooks = [blocks[l].register_forward_hook(keep), blocks[-1].register_forward_hook(put)]
    try:
        with written_out(case.model, case.module) as seen:
            y = case.y(case.model(**case.inputs))
    finally:
        for hook in hooks:
            hook.remove()
    (G,) = torch.autograd.grad(y.sum(), [seen[call].A])
    shown = torch.ones(G.shape[0], G.shape[2]) if padded is None else (~padded).float()
    rows = [
        (g * m[None, :, None]).sum((0, 1)) / (len(g) * m.sum())
        for g, m in zip(G.clamp(min=0), shown.to(G), strict=True)
    ]
    return torch.stack(rows)


def vision(case: Case) -> Sequence[nn.Module]:
    tower = case.model.vit if hasattr(case.model, "vit") else case.model.vision_model
    return tower.layers if hasattr(tower, "layers") else tower.encoder.layers


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("make", [of_clip, of_vit, of_siglip], ids=["clip", "vit", "siglip"])
def test_the_picture_s_map_is_the_one_written_out(make: Any, layers: int) -> None:
    case = make()
    blocks, pooled = vision(case), make is of_siglip
    expected = sum(term(case, blocks, l, 3 if pooled else l, None, pooled) for l in range(3 - layers, 3))
    found = in_double(case, layers=layers)["pixel_values"]
    first = case.towers[0].first
    torch.testing.assert_close(found, expected[:, first:], rtol=0, atol=1e-10 * float(expected.max()))


@pytest.mark.parametrize("make", [of_clip, of_siglip], ids=["clip", "siglip"])
def test_a_text_tower_has_one_too_and_padding_counts_in_no_mean(make: Any) -> None:
    case = make()
    mask = case.inputs.get("attention_mask")
    padded = None if mask is None else mask == 0
    start = 4 if make is of_siglip else 3
    blocks = case.model.text_model.encoder.layers
    expected = sum(term(case, blocks, l, start + l, padded, False) for l in (1, 2))
    torch.testing.assert_close(in_double(case)["input_ids"], expected, rtol=0, atol=1e-10 * float(expected.max()))


def test_a_sample_is_the_same_alone() -> None:
    case = families.CASES["vit"]()
    found = regard.explain(case.model, case.inputs, case.target, "legrad", layers=1)
    assert found.receipt.baseline == "none"
    assert bool((found.scores["pixel_values"] >= 0).all())
    alone = {k: v[:1] for k, v in case.inputs.items()}
    one = regard.explain(case.model, alone, case.target, "legrad", layers=1).scores["pixel_values"]
    torch.testing.assert_close(one, found.scores["pixel_values"][:1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("layers", [0, 9, True])
def test_layers_that_are_not_there(layers: Any) -> None:
    case = of_vit()
    with pytest.raises(Misuse, match="layers"):
        regard.explain(case.model, case.inputs, case.y, "legrad", layers=layers)


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(Misuse, match="no block"):
        regard.explain(Unblocked().eval(), noise(1, 4, 8), 1, "legrad")


@pytest.mark.parametrize("make", [of_clip, of_vit, of_siglip], ids=["clip", "vit", "siglip"])
def test_blocks_that_are_known_are_not_computed_again(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map is the same to the last digit, and of each tower few linear layers are run again."""
    case, computed = make(), []
    linear = nn.functional.linear
    monkeypatch.setattr(recorder, "operation", lambda func, *a: [computed.append(func), operation(func, *a)][1])
    found = in_double(case)
    few = sum(f is linear for f in computed)
    computed.clear()
    monkeypatch.setattr(home, "others", lambda *_: AsRecorded({}))
    every = in_double(case)
    assert few < 0.7 * sum(f is linear for f in computed)
    for stream in every:
        torch.testing.assert_close(found[stream], every[stream], rtol=0, atol=0)


def test_blocks_that_hand_on_more_than_their_output_are_computed_after_all() -> None:
    case, seen = of_vit(), []
    layers = case.model.vit.layers
    inner = next(m for m in layers[0].modules() if isinstance(m, nn.Linear))
    inner.register_forward_hook(lambda _m, _a, out: seen.append(out))

    def reads(_module: nn.Module, args: Any) -> Any:
        return (args[0] + seen[-1].sin(), *args[1:])

    layers[-2].register_forward_pre_hook(reads)
    expected = sum(term(case, layers, l, l, None, False) for l in (1, 2))
    torch.testing.assert_close(
        in_double(case)["pixel_values"], expected[:, 1:], rtol=0, atol=1e-10 * float(expected.max())
    )


def test_what_is_bright_whatever_is_asked_has_no_score() -> None:
    """Class 2's map is that of a prompt that names nothing."""
    case = of_siglip()
    given = {"input_ids": case.inputs["input_ids"], "pixel_values": case.inputs["pixel_values"][:1]}
    plain, empty = (
        regard.explain(case.model, given, Target.logit(c, output="logits_per_image"), "legrad").scores["pixel_values"]
        for c in (0, 1)
    )
    target = Target.logit(0, output="logits_per_image")
    found = regard.explain(case.model, given, target, "legrad", correct=1).scores["pixel_values"]
    bright = empty - empty.min() > 0.8 * (empty.max() - empty.min())
    assert 0 < int(bright.sum()) < 16
    torch.testing.assert_close(found, plain * ~bright, rtol=0, atol=0)
    with pytest.raises(Misuse, match="correct= is the number of another class"):
        regard.explain(case.model, case.inputs, case.y, "legrad", correct=1)
