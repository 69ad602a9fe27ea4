"""Integrated gradients equal Captum's (0.9) at the same nodes: on pixels, on word embeddings, and at blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import regard
from regard import Baseline, Site
from support import families

attr = pytest.importorskip("captum.attr")
STEPS = 9


def close(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-5 of the largest score."""
    theirs = theirs.detach()
    assert float(theirs.abs().max()) > 0
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def of_cells(a: Tensor, grid: tuple[int, int]) -> Tensor:
    """(batch, channel, height, width) -> (batch, token): summed over each patch."""
    rows, columns = grid
    return torch.nn.functional.avg_pool2d(a.sum(1), (a.shape[2] // rows, a.shape[3] // columns), divisor_override=1)


@pytest.mark.parametrize("baseline", [Baseline.zero(), Baseline.blur(2.0), Baseline.mean()])
@pytest.mark.parametrize(("grid", "rule"), [("gauss", "gausslegendre"), ("trapezoid", "riemann_trapezoid")])
def test_on_pixels(baseline: Baseline, grid: str, rule: str) -> None:
    from regard.attribution.integral.baseline_values import blurred

    case = families.CASES["vit"]()
    x = case.inputs["pixel_values"]
    x0 = {"zero": x * 0, "blur": blurred(x, 2.0), "mean": x.mean((2, 3), keepdim=True).expand_as(x)}[baseline.kind]
    ig = attr.IntegratedGradients(lambda v: case.model(pixel_values=v).logits[:, 1])
    theirs = ig.attribute(x, baselines=x0, n_steps=STEPS, method=rule)
    if grid == "trapezoid":
        theirs *= STEPS / (STEPS - 1)  # Captum's weights add up to 1 - 1/n there
    ours = regard.explain(case.model, case.inputs, 1, "integrated_gradients", baseline=baseline, steps=STEPS, grid=grid)
    close(ours.scores["pixel_values"], of_cells(theirs, ours.grid["pixel_values"]).flatten(1))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_on_word_embeddings(name: str) -> None:
    """Captum on `inputs_embeds`; our zero baseline moves content tokens alone."""
    case = families.CASES[name]()
    model, inputs = case.model, dict(case.inputs)
    ids = inputs.pop("input_ids")
    x = model.get_input_embeddings()(ids).detach()
    ours = regard.explain(model, case.inputs, case.target, "integrated_gradients", steps=STEPS)
    special = [v for k, v in vars(model.config).items() if k.endswith("_token_id") and isinstance(v, int)]
    kept = torch.isin(ids, torch.tensor(special)) | case.hidden["input_ids"]
    kept[torch.arange(len(ids)), torch.as_tensor(case.row)] = True

    class Many:
        """Captum repeats the embeddings; masks are repeated here."""

        def __call__(self, e: Tensor) -> Tensor:
            k = len(e) // len(ids)
            rest = {n: v.repeat(k, *[1] * (v.ndim - 1)) for n, v in inputs.items()}
            output = model(inputs_embeds=e, **rest)
            return torch.cat([case.target(type(output)(logits=l)) for l in output.logits.chunk(k)])

    ig = attr.IntegratedGradients(Many())
    theirs = ig.attribute(x, baselines=torch.where(kept[..., None], x, 0.0), n_steps=STEPS, method="gausslegendre")
    close(ours.scores["input_ids"], theirs.sum(-1))


@pytest.mark.parametrize("layer", [0, 1])
def test_at_a_block(layer: int) -> None:
    """Captum's layer form goes from the layer's value at x0 to that at x: revised IG."""
    case = families.CASES["vit"]()
    x = case.inputs["pixel_values"]
    block = case.model.get_submodule(regard.inspect(case.model, case.inputs).blocks[layer].module)
    ig = attr.LayerIntegratedGradients(lambda v: case.model(pixel_values=v).logits[:, 1], block)
    theirs = ig.attribute(x, baselines=torch.zeros_like(x), n_steps=STEPS, method="gausslegendre")
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    ours = regard.explain(case.model, case.inputs, 1, "revised_ig", site=Site.block(layer), steps=STEPS)
    close(torch.cat([ours.scores["cls_token"], ours.scores["pixel_values"]], 1), theirs.sum(-1))
