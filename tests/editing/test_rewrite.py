"""Class rewriting of tensors: what is found, what stays as it was, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.errors import InputError, Misuse, ModelError, NonFinite, TargetError, UnknownName
from support import families
from support.as_found import assert_unchanged, state
from support.linear_pictures import LinearPictures

torch.set_num_threads(1)
PIXELS = {"low": -8.0, "high": 8.0}
"""The range of the random pictures of the tiny families, which are noise."""


def vit(double: bool = False) -> tuple[nn.Module, dict[str, Tensor]]:
    case = families.vit()
    inputs = {
        "pixel_values": torch.cat([case.inputs["pixel_values"]] * 2).roll(1, -1)
        * torch.linspace(0.4, 1, 4)[:, None, None, None]
    }
    return (case.model.double(), {k: v.double() for k, v in inputs.items()}) if double else (case.model, inputs)


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).logits.argmax(-1)


def others(model: nn.Module, x: Tensor) -> Tensor:
    """Another class than the predicted one, for each."""
    return (predicted(model, x) + 1) % families.CLASSES


def test_the_model_takes_them_for_the_new_class() -> None:
    model, inputs = vit()
    x = inputs["pixel_values"]
    to = others(model, x)
    found = regard.rewrite(model, inputs, to, budget=2.0, **PIXELS)
    assert bool(found.success.all())
    assert torch.equal(predicted(model, found.inputs), to)
    assert torch.equal(found.was, predicted(model, x))
    assert torch.equal(found.predicted, to)
    assert torch.allclose(found.inputs, found.pixels)
    with torch.no_grad():
        p = model(found.inputs).logits.softmax(-1)
    assert torch.allclose(found.probability, p.gather(1, to[:, None])[:, 0])
    assert found.maps is not None
    assert found.maps.shape == (4, 4, 4, 4)


def test_the_maps_are_corrected_attention_before_and_after() -> None:
    model, inputs = vit()
    to = others(model, inputs["pixel_values"])
    found = regard.rewrite(model, inputs, to, budget=2.0, **PIXELS)
    assert found.maps is not None
    for i, (x, c) in enumerate((x, c) for x in (inputs["pixel_values"], found.inputs) for c in (found.was, to)):
        exp = regard.explain(model, {"pixel_values": x}, c, "corrected_attention")
        assert torch.allclose(found.maps[:, i].flatten(1), exp.scores["pixel_values"])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("minimal", [False, True])
@pytest.mark.parametrize("levels", [None, 255])
def test_a_batch_is_its_samples_one_by_one(norm: str, minimal: bool, levels: int | None) -> None:
    model, inputs = vit(double=True)
    x = inputs["pixel_values"]
    to = others(model, x)
    how: dict[str, Any] = {
        "norm": norm,
        "budget": 0.6,
        "minimal": minimal,
        "levels": levels,
        "steps": 8,
        "maps": False,
        **PIXELS,
    }
    together = regard.rewrite(model, inputs, to, **how)
    for b in range(len(x)):
        alone = regard.rewrite(model, {"pixel_values": x[b : b + 1]}, to[b : b + 1], **how)
        assert torch.equal(together.queries[b], alone.queries[0])
        assert torch.equal(together.success[b], alone.success[0])
        assert torch.allclose(together.pixels[b], alone.pixels[0], atol=1e-9)
    assert int(together.queries.min()) > 0


def test_the_same_seed_gives_the_same_and_noise_does_not_depend_on_the_caller() -> None:
    model, inputs = vit()
    how: dict[str, Any] = {"budget": 0.02, "steps": 4, "restarts": 2, "maps": False, **PIXELS}
    to = others(model, inputs["pixel_values"])
    first = regard.rewrite(model, inputs, to, **how)
    torch.rand(3)
    assert torch.equal(first.pixels, regard.rewrite(model, inputs, to, **how).pixels)
    assert not bool(first.success.all()), "nothing is left for a restart to try"
    assert not torch.equal(first.pixels, regard.rewrite(model, inputs, to, seed=7, **how).pixels)


def test_minimal_is_smaller_and_still_the_new_class() -> None:
    model, inputs = vit()
    to = others(model, inputs["pixel_values"])
    most = regard.rewrite(model, inputs, to, budget=2.0, maps=False, **PIXELS)
    least = regard.rewrite(model, inputs, to, budget=2.0, minimal=True, maps=False, **PIXELS)
    assert bool(least.success.all())
    assert bool((least.linf < most.linf).all())
    assert torch.equal(predicted(model, least.inputs), to)


def test_a_picture_that_has_the_class_is_left_as_it_is() -> None:
    model, inputs = vit()
    x = inputs["pixel_values"]
    found = regard.rewrite(model, inputs, predicted(model, x), budget=1.0, maps=False, **PIXELS)
    assert bool(found.success.all())
    assert torch.equal(found.inputs, x)
    assert found.queries.tolist() == [1] * 4
    assert found.psnr.tolist() == [math.inf] * 4


def test_keep_leaves_the_old_class_the_second() -> None:
    model = LinearPictures(5, side=4, seed=3)
    x = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        was = model(x).argmax(-1)
    to = (was + 2) % 5
    found = regard.rewrite(model, x, to, keep=was, budget=0.5, low=0, high=1)
    assert bool(found.success.all())
    with torch.no_grad():
        order = model(found.inputs).topk(2).indices
    assert torch.equal(order, torch.stack([to, was], 1))
    without = regard.rewrite(model, x, to, budget=0.5, low=0, high=1)
    with torch.no_grad():
        second = model(without.inputs).topk(2).indices[:, 1]
    assert not torch.equal(second, was), "the old class would have stayed without keep="


def test_only_pixels_within_the_mask_move() -> None:
    model, inputs = vit()
    x = inputs["pixel_values"]
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[3:9, 2:13] = True
    found = regard.rewrite(model, inputs, others(model, x), within=mask, budget=1.0, maps=False, **PIXELS)
    assert torch.equal(found.inputs[..., ~mask], x[..., ~mask])
    assert bool((found.inputs != x)[..., mask].any())
    assert found.within is not None
    assert torch.equal(found.within, mask.expand(4, -1, -1))


def test_internal_guidance_marks_the_tokens_of_the_new_class() -> None:
    model, inputs = vit()
    x = inputs["pixel_values"]
    was, to = predicted(model, x), others(model, x)
    found = regard.rewrite(model, inputs, to, within="internal", budget=1.0, maps=False, **PIXELS)
    exp = regard.explain(model, inputs, regard.Target.contrast(to, was), "corrected_attention")
    cells = exp.scores["pixel_values"].view(-1, 4, 4)
    marked = (cells > cells.mean((1, 2), keepdim=True)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert found.within is not None
    assert torch.equal(found.within, marked)
    still = ~marked[:, None].expand_as(x)
    assert torch.equal(found.inputs[still], x[still])


# -- left as found ----------------------------------------------------------------------------------------------------


def test_the_model_is_left_as_found() -> None:
    model, inputs = vit()
    inputs["pixel_values"].requires_grad_()
    list(model.parameters())[-1].grad = torch.ones_like(list(model.parameters())[-1])
    before = state(model, inputs)
    regard.rewrite(
        model, inputs, others(model, inputs["pixel_values"]), within="internal", minimal=True, steps=4, **PIXELS
    )
    assert_unchanged(before, state(model, inputs))
    with torch.no_grad():
        regard.rewrite(model, inputs, 0, steps=2, **PIXELS)
    assert_unchanged(before, state(model, inputs))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_model_is_left_as_found_when_it_is_interrupted(error: type) -> None:
    model, inputs = vit()
    said: list[tuple[str, int, int]] = []

    def told(what: str, done: int, total: int) -> None:
        said.append((what, done, total))
        torch.rand(1)
        if done == 3:
            raise error("stop")

    before = state(model, inputs)
    with pytest.raises(error, match="stop"):
        regard.rewrite(model, inputs, others(model, inputs["pixel_values"]), told=told, **PIXELS)
    assert_unchanged(before, state(model, inputs))
    assert said == [("rewriting", i, 80) for i in (1, 2, 3)]


# -- what is measured -------------------------------------------------------------------------------------------------


def test_sizes_are_what_they_are_called() -> None:
    model = LinearPictures(2, side=8)
    x = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    with torch.no_grad():
        to = 1 - model(x).argmax(-1)
    found = regard.rewrite(model, x, to, budget=3 / 255, low=0, high=1, levels=255)
    moved = (found.pixels - found.original).double().flatten(1)
    assert torch.allclose(found.linf, moved.abs().amax(1), atol=1e-7)
    assert torch.allclose(found.l2, moved.norm(dim=1), rtol=1e-5)
    some = found.linf > 0
    assert bool(some.any())
    assert torch.allclose(found.psnr[some], (-10 * moved.square().mean(1).log10())[some], rtol=1e-5)
    from skimage.metrics import structural_similarity

    assert found.ssim is not None
    for b in range(2):
        a, c = (t[b].permute(1, 2, 0).double().numpy() for t in (found.original, found.pixels))
        assert float(found.ssim[b]) == pytest.approx(
            structural_similarity(a, c, data_range=1.0, channel_axis=2, win_size=7)
        )


def test_a_model_without_attention_has_no_maps_and_small_pictures_no_ssim() -> None:
    found = regard.rewrite(LinearPictures(2), torch.rand(1, 3, 4, 4), 1, low=0, high=1)
    assert found.maps is None
    assert found.ssim is None
    assert any("no maps" in n for n in found.notes)
    assert any("SSIM" in n for n in found.notes)


def test_an_assumed_range_is_noted() -> None:
    found = regard.rewrite(LinearPictures(2), torch.rand(1, 3, 4, 4), 1)
    assert any("between 0 and 1" in n for n in found.notes)
    said = regard.rewrite(LinearPictures(2), torch.rand(1, 3, 4, 4), 1, low=0, high=1)
    assert not any("between 0 and 1" in n for n in said.notes)


def test_half_precision_models_are_rewritten_in_their_own_dtype() -> None:
    model = LinearPictures(2, side=8).bfloat16()
    found = regard.rewrite(model, torch.rand(1, 3, 8, 8).bfloat16(), 1, budget=0.3, low=0, high=1)
    assert found.inputs.dtype == torch.bfloat16
    assert bool(found.success) == bool(model(found.inputs).argmax(-1) == 1)


# -- files ------------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path: Any) -> None:
    model, inputs = vit()
    found = regard.rewrite(model, inputs, others(model, inputs["pixel_values"]), keep=None, within="internal", **PIXELS)
    again = regard.Rewriting.load(found.save(tmp_path / "r.safetensors"))
    for name, value in vars(found).items():
        mine = getattr(again, name)
        assert torch.equal(mine, value) if isinstance(value, Tensor) else mine == value, name
    assert str(again) == str(found)


def test_files_of_another_kind_are_refused(tmp_path: Any) -> None:
    model, inputs = vit()
    path = regard.explain(model, inputs).save(tmp_path / "e.safetensors")
    with pytest.raises(InputError, match="is not a rewriting"):
        regard.Rewriting.load(path)
    with pytest.raises(InputError, match="no such file"):
        regard.Rewriting.load(tmp_path / "none")
    with pytest.raises(Misuse, match="no file of picture 0"):
        regard.rewrite(model, inputs, 0, steps=1, maps=False, **PIXELS).png()


def test_a_refusal_does_not_repeat_a_whole_list() -> None:
    model, inputs = vit()
    for how in ({"within": [[1] * 16] * 16}, {"to": [1] * 500}, {"mean": [[1] * 16] * 16}):
        with pytest.raises(regard.RegardError) as refused:
            regard.rewrite(model, inputs, **({"to": 1, **PIXELS} | how))
        assert len(str(refused.value)) < 200


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"to": None}, Misuse, "to= is the class"),
        ({"to": 9}, TargetError, "out of range: there are 3"),
        ({"to": -1}, TargetError, "out of range"),
        ({"to": 1.5}, TargetError, "is a class number"),
        ({"to": True}, TargetError, "is a class number"),
        ({"to": torch.tensor([0, 1])}, TargetError, "4 samples"),
        ({"keep": 9}, TargetError, "keep= class 9"),
        ({"keep": 1}, Misuse, "the same class"),
        ({"norm": "l1"}, UnknownName, "norm"),
        ({"budget": 0}, Misuse, "greater than 0"),
        ({"budget": -1.0}, Misuse, "greater than 0"),
        ({"budget": math.nan}, Misuse, "greater than 0"),
        ({"budget": "2/0"}, Misuse, "2/0"),
        ({"budget": "much"}, Misuse, "such as 2/255"),
        ({"budget": 17.0}, Misuse, "more than the whole range"),
        ({"budget": 0.01, "levels": 255}, Misuse, "less than one level"),
        ({"within": "inside"}, UnknownName, "internal"),
        ({"within": torch.ones(3, 3)}, InputError, r"give a mask \(16, 16\)"),
        ({"within": torch.zeros(16, 16)}, InputError, "no pixel of a picture may change"),
        ({"within": 3}, Misuse, "is a mask"),
        ({"steps": 0}, Misuse, "steps="),
        ({"restarts": -1}, Misuse, "restarts="),
        ({"seed": -1}, Misuse, "seed="),
        ({"levels": 0}, Misuse, "levels="),
        ({"high": None}, Misuse, "give both"),
        ({"low": 1.0, "high": 0.0}, Misuse, "less than high"),
        ({"std": 0.0}, Misuse, "greater than 0"),
        ({"mean": [0.0, 1.0]}, Misuse, "one per channel"),
        ({"mean": "imagenet"}, Misuse, "one per channel"),
        ({"low": 0.0, "high": 1.0}, Misuse, "outside of 0 to 1"),
    ],
)
def test_arguments_that_do_not_fit(how: dict[str, Any], error: type, said: str) -> None:
    model, inputs = vit()
    before = state(model, inputs)
    with pytest.raises(error, match=said):
        regard.rewrite(model, inputs, **({"to": 1, **PIXELS} | how))
    assert_unchanged(before, state(model, inputs))


@pytest.mark.parametrize("name", ["bert", "llama", "lxmert"])
def test_models_that_name_no_class_of_a_picture(name: str) -> None:
    case = families.CASES[name]()
    with pytest.raises(ModelError, match="rewriting"):
        regard.rewrite(case.model, case.inputs, 0, **PIXELS)


class Scores(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda x: x.flatten(1).sum(1), ModelError, "one prediction a picture"),
        (lambda x: x.flatten(1)[:, :1], ModelError, "classes of which a picture has one"),
        (lambda x: x.flatten(1)[:, :3].sigmoid(), ModelError, "may have several"),
        (lambda x: x.flatten(1)[:, :3].detach(), ModelError, "no gradient"),
        (lambda x: x.flatten(1)[:, :3] / 0, NonFinite, "NaN or infinity"),
    ],
)
def test_outputs_that_are_no_classes(make: Any, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        regard.rewrite(Scores(make).eval(), torch.rand(2, 3, 4, 4), 0, low=0, high=1)


def test_a_model_in_train_mode_and_pictures_of_nan_are_refused() -> None:
    with pytest.raises(ModelError, match="train mode"):
        regard.rewrite(LinearPictures().train(), torch.rand(1, 3, 4, 4), 0)
    with pytest.raises(Misuse, match="NaN"):
        regard.rewrite(LinearPictures(), torch.full((1, 3, 4, 4), torch.nan), 0)
