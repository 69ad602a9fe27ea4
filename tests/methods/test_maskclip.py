"""MaskCLIP beside its formula: the last attention hands on each token's own value, each token goes through the tail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.attribution.attention.maskclip import maskclip
from regard.attribution.context import Context
from regard.attribution.rerun import Rerun
from regard.errors import Misuse
from regard.recording import record
from regard.target import Target
from support import families
from support.dual_encoders import Case, of_clip, of_siglip, of_vit
from support.tiny import Unblocked, noise


def in_double(case: Case, **options: Any) -> Tensor:
    """The picture's map as the method counts it, before it is written down in single precision."""
    recording = record(case.model, case.inputs, states=True)
    target = Target.of(case.y)
    again = Rerun(case.model, recording.given, target, recording.batch)
    gradients = recording.gradients_later(again.y(recording.output))
    found = maskclip(Context(recording, gradients, {}, again=again), **options)
    return found[:, recording.stream("pixel_values").rows]


def dense(case: Case, block: nn.Module, attention: nn.Module, out: nn.Module, own: bool) -> Tensor:
    """The tokens after the last block; own: its attention hands on each token's own value."""
    seen: list[Tensor] = []

    def values(_m: nn.Module, args: Any, kwargs: Any, _out: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        return out(attention.v_proj(x)), None

    hooks = [block.register_forward_hook(lambda _m, _a, o: seen.append(o if isinstance(o, Tensor) else o[0]))]
    if own:
        hooks.append(attention.register_forward_hook(values, with_kwargs=True))
    try:
        with torch.no_grad():
            case.model(**case.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[-1]


def of_token(case: Case) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The tokens (batch, token, width), and what the target is of one of each sample (batch, width)."""
    model = case.model
    with torch.no_grad():
        known = model(**case.inputs)
    if hasattr(model, "vit"):
        last = model.vit.layers[-1]
        Z = dense(case, last, last.attention, last.attention.o_proj, own=True)
        return Z[:, 1:], lambda z: model.classifier(model.vit.layernorm(z))[:, 1]
    last, scale = model.vision_model.encoder.layers[-1], model.logit_scale.exp()
    T = F.normalize(known.text_embeds, dim=-1)
    if hasattr(model, "visual_projection"):
        Z = dense(case, last, last.self_attn, last.self_attn.out_proj, own=True)

        def of_clip_token(z: Tensor) -> Tensor:
            embeds = model.visual_projection(model.vision_model.post_layernorm(z))
            return (F.normalize(embeds, dim=-1) * T).sum(-1) * scale

        return Z[:, 1:], of_clip_token
    Z = dense(case, last, last.self_attn, last.self_attn.out_proj, own=False)

    def of_siglip_token(z: Tensor) -> Tensor:
        embeds = model.vision_model.head(model.vision_model.post_layernorm(z)[:, None])
        return (F.normalize(embeds, dim=-1) * T).sum(-1) * scale + model.logit_bias

    return Z, of_siglip_token


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("make", [of_clip, of_vit, of_siglip], ids=["clip", "vit", "siglip"])
def test_the_map_is_the_one_written_out(make: Any, centred: bool) -> None:
    case = make()
    Z, y = of_token(case)
    with torch.no_grad():
        expected = torch.stack([y(Z[:, j]) for j in range(Z.shape[1])], 1)
    if centred:
        expected = expected - expected.mean(1, keepdim=True)
    found = in_double(case, centred=centred)
    # y is read in single precision, as every target's value on a receipt is
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.abs().max()) + 1e-7)


def test_of_one_picture_and_several_texts_the_picture_alone_is_copied() -> None:
    case = of_clip()
    given = case.inputs | {"pixel_values": case.inputs["pixel_values"][:1]}
    found = regard.explain(case.model, given, Target.logit(1, output="logits_per_image"), "maskclip").scores
    both = case.inputs | {"pixel_values": case.inputs["pixel_values"][[0, 0]]}
    pair = regard.explain(case.model, both, lambda out: out.logits_per_image.diagonal(), "maskclip").scores
    torch.testing.assert_close(found["pixel_values"][0], pair["pixel_values"][1], rtol=1e-5, atol=1e-6)
    assert float(found["input_ids"].abs().max()) == 0


def test_a_sample_is_the_same_alone_and_in_little_memory() -> None:
    case = families.CASES["vit"]()
    found = regard.explain(case.model, case.inputs, case.target, "maskclip").scores["pixel_values"]
    alone = {k: v[:1] for k, v in case.inputs.items()}
    one = regard.explain(case.model, alone, case.target, "maskclip", memory_budget=1).scores["pixel_values"]
    torch.testing.assert_close(one, found[:1], rtol=0, atol=1e-6)


def test_blocks_that_hand_on_more_than_their_output_are_computed() -> None:
    """The last block reads what an earlier one has left beside: skipped, that would be another value."""
    case = of_vit()
    layers, seen = case.model.vit.layers, []
    inner = next(m for m in layers[0].modules() if isinstance(m, nn.Linear))
    inner.register_forward_hook(lambda _m, _a, out: seen.append(out))
    layers[-1].register_forward_pre_hook(lambda _m, args: (args[0] + seen[-1].sin(), *args[1:]))
    Z, y = of_token(case)
    with torch.no_grad():
        expected = torch.stack([y(Z[:, j]) for j in range(Z.shape[1])], 1)
    found = in_double(case, centred=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.abs().max()) + 1e-7)


def test_a_target_that_is_not_read_from_the_last_tokens() -> None:
    case = of_vit()
    given = case.inputs | {"output_hidden_states": True}
    with pytest.raises(Misuse, match="maskclip reads each token by itself"):
        regard.explain(case.model, given, lambda out: out.hidden_states[1].sum((1, 2)), "maskclip")


def test_models_without_pictures_or_blocks_are_refused() -> None:
    case = families.CASES["bert"]()
    with pytest.raises(Misuse, match="maskclip is of pictures"):
        regard.explain(case.model, case.inputs, case.target, "maskclip")

    with pytest.raises(Misuse, match="no block"):
        regard.explain(Unblocked().eval(), noise(1, 4, 8), 1, "maskclip")
