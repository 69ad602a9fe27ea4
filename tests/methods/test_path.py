"""Sites, baselines and the path between them: the identities of formulas.md section 1, and slow literal twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regard
from regard import Baseline, Site
from regard.attribution.context import summed
from regard.attribution.integral.quadrature import GAUSS, GAUSS_WEIGHTS, KRONROD, KRONROD_WEIGHTS, adaptive, nodes
from regard.errors import Misuse, UnknownName
from regard.recording import record
from support import families
from support.dual_encoders import of_clip
from support.every_method import quick

CORE = ["vit", "bert", "llama", "clip_vision", "lxmert", "t5", "swin", "torch_encoder_sequence_first"]


def sites(case: families.Case) -> list[Site]:
    blocks = regard.inspect(case.model, case.inputs).blocks
    return [Site.input(), Site.embeddings(), *(Site.block(l) for l in range(len(blocks)))]


def explained(case: families.Case, method: str, **options) -> regard.Explanation:
    torch.manual_seed(0)
    return regard.explain(case.model, case.inputs, case.target, method, **options)


def in_float64(name: str) -> families.Case:
    case = families.CASES[name]()
    case.model.double()
    double = lambda t: t.double() if t.is_floating_point() else t  # noqa: E731
    case.inputs = (
        double(case.inputs) if isinstance(case.inputs, Tensor) else {k: double(v) for k, v in case.inputs.items()}
    )
    return case


# -- frontiers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", quick(CORE, ["vit", "bert", "swin"]))
def test_T_is_one_number_at_every_frontier(name: str) -> None:
    """A propagated baseline: whatever block it is put behind, y falls to y(x0)."""
    case = in_float64(name)
    T = [explained(case, "revised_ig", site=s, steps=1).receipt.attribution_target for s in sites(case)]
    assert float(T[0].abs().min()) > 1e-4
    for t in T[1:]:
        torch.testing.assert_close(t, T[0], rtol=1e-6, atol=1e-6)


def test_blocks_are_counted_from_the_end_of_either_tower() -> None:
    """A picture and a text that are encoded apart: block −2 is the last but one of both."""
    case = of_clip()
    recording = record(case.model, case.inputs, states=True)
    names = {s.stream: s.key.module for s in recording.frontier(-2)}
    assert names["pixel_values"] == "vision_model.encoder.layers.1"
    assert names["input_ids"] == "text_model.encoder.layers.1"
    whole = regard.explain(case.model, case.inputs, case.y, "revised_ig", site=Site.block(-2), steps=1).receipt
    at_input = regard.explain(case.model, case.inputs, case.y, "integrated_gradients", steps=1).receipt
    assert whole.complete
    torch.testing.assert_close(whole.attribution_target, at_input.attribution_target, rtol=1e-5, atol=1e-5)
    for method in ("grad_cam", "revised_ig", "layer_cam"):
        found = regard.explain(case.model, case.inputs, case.y, method).scores
        assert all(bool(found[name].any()) for name in ("pixel_values", "input_ids")), method
    with pytest.raises(Misuse, match="a tower of the run has 3 blocks"):
        recording.frontier(-4)
    assert {s.key.module for s in recording.frontier(5)} == {
        "vision_model.encoder.layers.2",
        "text_model.encoder.layers.2",
    }


class OfTexts(nn.Module):
    """A model of two towers whose texts are its own."""

    def __init__(self, model: nn.Module, given: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.model, self.texts = model, {k: v for k, v in given.items() if k != "pixel_values"}

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values, **self.texts).logits_per_image


@pytest.mark.parametrize("method", ["raw_attention", "gae", "grad_cam", "layer_cam", "attention_eclip", "legrad"])
def test_texts_that_a_model_brings_along_leave_the_map_of_the_picture_as_it_is(method: str) -> None:
    """A zero-shot classifier: its texts are no input, and their tower's blocks are no blocks of the picture's."""
    case = of_clip()
    given = regard.explain(case.model, case.inputs, case.y, method).scores["pixel_values"]
    alone = OfTexts(case.model, case.inputs).eval()
    pixels = {"pixel_values": case.inputs["pixel_values"]}
    found = regard.explain(alone, pixels, lambda y: y.diagonal(), method).scores["pixel_values"]
    assert bool(found.any())
    torch.testing.assert_close(found, given, rtol=1e-6, atol=1e-9)


def test_blocks_of_a_tower_that_no_input_enters_are_counted_apart() -> None:
    case = of_clip()
    alone = OfTexts(case.model, case.inputs).eval()
    pixels = {"pixel_values": case.inputs["pixel_values"]}
    names = {s.stream: s.key.module for s in record(alone, pixels, states=True).frontier(-2)}
    assert names["pixel_values"] == "model.vision_model.encoder.layers.1"
    exp = regard.explain(alone, pixels, lambda y: y.diagonal(), "revised_ig", site=Site.block(-2))
    assert bool(exp.scores["pixel_values"].any())
    assert max(exp.receipt.relative_error) < 1e-3


def test_one_stream_alone_is_no_frontier_and_the_receipt_says_so() -> None:
    case = families.CASES["lxmert"]()
    last = len(regard.inspect(case.model, case.inputs).blocks) - 2
    both = explained(case, "revised_ig", site=Site.block(last), steps=1).receipt
    one = explained(case, "revised_ig", site=Site.block(last, stream="visual_feats"), steps=1).receipt
    assert both.complete
    assert not one.complete
    assert float((one.attribution_target - both.attribution_target).abs().min()) > 1e-3
    with pytest.raises(UnknownName, match="unknown stream 'pictures'"):
        explained(case, "revised_ig", site=Site.block(last, stream="pictures"))


def test_the_frontier_of_an_encoder_decoder_holds_the_encoders_output() -> None:
    case = families.CASES["t5"]()
    exp = explained(case, "revised_ig", site=Site.block(4), steps=4)
    assert all(bool(s.any()) for s in exp.scores.values()), "both streams have a share"


# -- the integral -----------------------------------------------------------------------------------------------------


def literal_ig(f, x: Tensor, x0: Tensor, steps: int) -> Tensor:
    """(x − x0) ⊙ Σ_i w_i ∂f(x0 + t_i (x − x0)), node by node."""
    at, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(x)
    for s, weight in zip((at + 1) / 2, weights / 2, strict=True):
        point = (x0 + float(s) * (x - x0)).requires_grad_()
        total += float(weight) * torch.autograd.grad(f(point).sum(), point)[0]
    return (x - x0) * total


def test_integrated_gradients_of_pixels_equal_the_literal_loop() -> None:
    case = in_float64("vit")
    x = case.inputs["pixel_values"]
    a = literal_ig(lambda p: case.target(case.model(pixel_values=p)), x, torch.zeros_like(x), 12)
    exp = explained(case, "integrated_gradients", steps=12)
    (grid,) = exp.grid.values()
    cells = a.reshape(len(x), x.shape[1], grid[0], x.shape[2] // grid[0], grid[1], x.shape[3] // grid[1]).sum((1, 3, 5))
    assert float((exp.scores["pixel_values"] - cells.flatten(1)).abs().max()) <= 1e-6 * float(cells.abs().max())


@pytest.mark.parametrize("layer", [0, 1])
def test_revised_ig_at_a_block_equals_the_literal_loop(layer: int) -> None:
    """The literal way: a hook that replaces the block's output, one node at a time."""
    case = in_float64("vit")
    model, x = case.model, case.inputs["pixel_values"]
    block = dict(model.named_modules())[regard.inspect(model, case.inputs).blocks[layer].module]

    def output(of: Tensor) -> Tensor:
        found = []
        handle = block.register_forward_hook(lambda m, i, o: found.append(o[0] if isinstance(o, tuple) else o))
        model(pixel_values=of)
        handle.remove()
        return found[0].detach()

    def above(F: Tensor) -> Tensor:
        swap = lambda m, i, o: (F, *o[1:]) if isinstance(o, tuple) else F  # noqa: E731
        handle = block.register_forward_hook(swap)
        y = case.target(model(pixel_values=x))
        handle.remove()
        return y

    a = literal_ig(above, output(x), output(torch.zeros_like(x)), 7).sum(-1)
    exp = explained(case, "revised_ig", site=Site.block(layer), steps=7)
    found = torch.cat([exp.scores["cls_token"], exp.scores["pixel_values"]], 1)
    assert float((found - a).abs().max()) <= 1e-6 * float(a.abs().max())


@pytest.mark.parametrize("name", ["vit", "bert", "lxmert"])
def test_swapping_x_and_x0_negates_the_sum(name: str) -> None:
    case = families.CASES[name]()
    x = {k: v for k, v in case.inputs.items() if v.is_floating_point()} if isinstance(case.inputs, dict) else {}
    if not x:
        pytest.skip("ids cannot be swapped with embeddings")
    other = {k: v.flip(0) * 0.5 + 0.1 for k, v in x.items()}
    there = explained(case, "integrated_gradients", baseline={k: Baseline.of(v) for k, v in other.items()})
    case.inputs = {**case.inputs, **other}
    back = explained(case, "integrated_gradients", baseline={k: Baseline.of(v) for k, v in x.items()})
    torch.testing.assert_close(there.receipt.attribution_sum, -back.receipt.attribution_sum, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "bert", "clip_vision", "lxmert"])
def test_a_tolerance_is_kept_or_the_receipt_says_what_is_left(name: str) -> None:
    case = families.CASES[name]()
    receipt = explained(case, "revised_ig", tolerance=1e-3, site=Site.embeddings()).receipt
    left = [n for n in receipt.notes if "of |T| after" in n]
    kept = receipt.relative_error <= 1e-3
    assert len(left) == int((~kept).sum())


def test_the_sum_is_that_of_the_scores_to_the_last_digit() -> None:
    """T may be far smaller than the terms: what float32 would round off may be more than a tolerance of it."""
    exp = explained(families.CASES["vit"](), "revised_ig", site=Site.input(), steps=4)
    each = torch.cat([v.double() for v in exp.scores.values()], 1)
    assert torch.equal(exp.receipt.attribution_sum, each.sum(1).float())
    x = torch.tensor([[1e4, 1.0, -1e4, 1e-5]]).repeat(2, 1)
    assert torch.equal(summed(x, 2), torch.tensor([1.00001, 1.00001]))
    assert torch.equal(summed(x, 1), torch.tensor([2.00002]))


def test_a_samples_map_does_not_depend_on_its_batch_mates() -> None:
    case = families.CASES["vit"]()
    for options in ({"steps": 9}, {"tolerance": 1e-2}, {"steps": 4, "memory_budget": 1}):
        whole = explained(case, "revised_ig", **options)
        x = case.inputs["pixel_values"]
        for i in range(len(x)):
            target = lambda out, i=i: case.target(out.__class__(logits=out.logits.expand(2, -1)))[i : i + 1]  # noqa: E731
            one = regard.explain(case.model, {"pixel_values": x[i : i + 1]}, target, "revised_ig", **options)
            for stream, scores in one.scores.items():
                assert float((whole.scores[stream][i] - scores[0]).abs().max()) <= 1e-5 * float(scores.abs().max())


@pytest.mark.parametrize("n", [2, 7, 16])
def test_grids_of_nodes_are_those_of_the_literature(n: int) -> None:
    """On [0, 1], with weights that sum to 1: Gauss-Legendre; both ends halved; all alike."""
    at, weights = np.polynomial.legendre.leggauss(n)
    even, inner = np.linspace(0, 1, n), np.full(n, 1 / (n - 1))
    inner[[0, -1]] /= 2
    grids = {
        "gauss": ((at + 1) / 2, weights / 2),
        "trapezoid": (even, inner),
        "linspace": (even, np.full(n, 1 / n)),
    }
    for name, (points, shares) in grids.items():
        t, w = nodes(name, n)
        np.testing.assert_allclose(t.numpy(), points, atol=1e-14)
        np.testing.assert_allclose(w.numpy(), shares, atol=1e-14)
        assert float(nodes(name, 1)[1]) == 1.0


def test_kronrods_rule_is_exact_to_degree_23_and_gauss_to_13() -> None:
    """Odd powers vanish by symmetry; of the even ones those above 22, and above 12, are not exact."""
    for degree in range(30):
        exact = (1 - (-1) ** (degree + 1)) / (degree + 1)
        kronrod = abs(float((KRONROD_WEIGHTS * KRONROD**degree).sum()) - exact)
        gauss = abs(float((GAUSS_WEIGHTS * KRONROD[GAUSS] ** degree).sum()) - exact)
        assert kronrod < 1e-14 if degree <= 23 or degree % 2 else kronrod > 1e-9, degree
        assert gauss < 1e-14 if degree <= 13 or degree % 2 else gauss > 1e-6, degree


def test_the_adaptive_rule_finds_a_step_and_stops_at_the_cap() -> None:
    f = lambda t: (t > 0.3).double()[:, None]  # noqa: E731
    total, used = adaptive(f, lambda a: abs(float(a) - 0.7) < 1e-3, 500)
    assert abs(float(total) - 0.7) < 1e-3
    assert used < 250
    _, capped = adaptive(f, lambda a: False, 60)
    assert 40 < capped <= 60


def test_the_adaptive_rule_halves_an_interval() -> None:
    asked: list[Tensor] = []
    adaptive(lambda t: asked.append(t) or t.sqrt()[:, None], lambda a: False, 40)
    assert [len(t) for t in asked[:3]] == [7, 8, 14]
    torch.testing.assert_close(asked[2] + asked[2].flip(0), torch.ones(14, dtype=torch.float64))


# -- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "bert", *(pytest.param(n, marks=pytest.mark.long) for n in ("lxmert", "t5"))])
def test_attention_from_zero_accounts_for_its_own_T(name: str) -> None:
    case = families.CASES[name]()
    count, seen = len(regard.inspect(case.model, case.inputs).calls), 0
    for site in (Site.attention(0), Site.attention(count - 1), Site.attention(joint=True)):
        receipt = explained(case, "revised_ig", site=site, tolerance=1e-2, most=500).receipt
        assert not receipt.complete
        assert receipt.baseline == "A = 0"
        defined = ~receipt.relative_error.isnan()  # LXMERT's last look at the picture is read by nobody
        seen += int(defined.any())
        assert bool((receipt.relative_error[defined] <= 1e-2).all()), site.label
    assert seen >= 2


# -- a linear model ---------------------------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    """Attention whose A does not depend on x (keys are zero), so that y is linear in x."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = torch.nn.ModuleList([Uniform(), Uniform()])
        self.head = torch.nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class Uniform(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v = torch.nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q = x * 0
        return x + torch.nn.functional.scaled_dot_product_attention(q, q, self.v(x))


@pytest.mark.parametrize("site", [Site.input(), Site.embeddings(), Site.block(0)])
def test_for_a_linear_model_every_row_accounts_for_all(site: Site) -> None:
    model, x = Linear().eval(), torch.randn(2, 5, 4)
    one = {"site": site, "steps": 1}
    maps = [
        regard.explain(model, x, 1, "taylor", site=site),
        regard.explain(model, x, 1, "integrated_gradients", **one),
        regard.explain(model, x, 1, "revised_ig", **one),
        regard.explain(model, x, 1, "input_x_gradient", site=site),
    ]
    for m in maps:
        assert float(m.receipt.relative_error.max()) < 1e-5
        torch.testing.assert_close(m.scores["input"], maps[0].scores["input"])
    x0 = torch.randn(2, 5, 4)
    given = regard.explain(model, x, 1, "taylor", site=site, baseline=Baseline.of(x0))
    assert float(given.receipt.relative_error.max()) < 1e-4
    signed = regard.explain(model, x, 1, "odam", site=Site.block(0), signed=True)
    torch.testing.assert_close(
        signed.scores["input"], regard.explain(model, x, 1, "taylor", site=Site.block(0)).scores["input"]
    )


# -- baselines --------------------------------------------------------------------------------------------------------


def test_baselines_of_pictures() -> None:
    from regard.attribution.integral.baseline_values import blurred

    case = families.CASES["vit"]()
    x = case.inputs["pixel_values"]
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.2, 0.1]
    literal = {
        Baseline.zero(): torch.zeros_like(x),
        Baseline.black(mean, std): (-torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1).expand_as(x),
        Baseline.white(mean, std): ((1 - torch.tensor(mean)) / torch.tensor(std)).view(1, 3, 1, 1).expand_as(x),
        Baseline.mean(): x.mean((2, 3), keepdim=True).expand_as(x),
        Baseline.blur(2.0): blurred(x, 2.0),
    }
    with torch.no_grad():
        for baseline, x0 in literal.items():
            expected = case.target(case.model(pixel_values=x0.contiguous()))
            receipt = explained(case, "taylor", baseline=baseline).receipt
            torch.testing.assert_close(receipt.baseline_value, expected, rtol=1e-4, atol=1e-5)
            assert receipt.baseline == baseline.label


@pytest.mark.parametrize("baseline", [Baseline.mean(), Baseline.noise(3)])
def test_padded_features_have_no_say_in_the_baseline(baseline: Baseline) -> None:
    case = families.CASES["lxmert"]()
    short = {**{k: v[:1] for k, v in case.inputs.items()}, "visual_attention_mask": torch.ones(1, 4)}
    added = torch.linspace(-9, 9, 16).view(1, 2, 8)
    long = {**short, "visual_attention_mask": torch.tensor([[1.0, 1, 1, 1, 0, 0]])}
    long["visual_feats"] = torch.cat([short["visual_feats"], added], 1)
    long["visual_pos"] = torch.cat([short["visual_pos"], added[..., :4]], 1)
    a, b = (
        regard.explain(case.model, x, case.target, "integrated_gradients", baseline={"visual_feats": baseline}).scores
        for x in (short, long)
    )
    torch.testing.assert_close(b["visual_feats"][:, :4], a["visual_feats"], rtol=1e-4, atol=1e-6)
    assert not bool(b["visual_feats"][:, 4:].any())
    mate = long["visual_attention_mask"] * 0  # a sample that is all padding has no say in its mates
    both = {k: torch.cat([v, v]) for k, v in long.items()} | {
        "visual_attention_mask": torch.cat([long["visual_attention_mask"], mate])
    }
    exp = regard.explain(case.model, both, case.target, "integrated_gradients", baseline={"visual_feats": baseline})
    torch.testing.assert_close(exp.scores["visual_feats"][:1], b["visual_feats"], rtol=1e-4, atol=1e-6)


def test_a_blur_is_a_gaussian() -> None:
    from scipy.ndimage import gaussian_filter

    from regard.attribution.integral.baseline_values import blurred

    x = torch.randn(1, 2, 40, 30, dtype=torch.float64)
    expected = [gaussian_filter(c.numpy(), 2.0, mode="nearest", truncate=3.0) for c in x[0]]
    found = blurred(x, 2.0)[0]
    for c, e in zip(found, expected, strict=True):
        assert float((c - torch.from_numpy(e)).abs().max()) < 1e-6


def test_baselines_of_ids_leave_special_tokens_and_the_read_position() -> None:
    case = families.CASES["bert"]()
    ids = case.inputs["input_ids"].clone()
    for baseline, literal in ((Baseline.mask_token(7), 7), (Baseline.of(torch.full((ids.shape[1],), 9)), 9)):
        other = ids.clone()
        special = torch.isin(ids, torch.tensor([case.model.config.pad_token_id]))
        content = ~special & (case.inputs.get("attention_mask", torch.ones_like(ids)) == 1)
        content[:, 0] = False  # the position that is read
        other[content] = literal
        with torch.no_grad():
            expected = case.target(case.model(**{**case.inputs, "input_ids": other}))
        receipt = explained(case, "taylor", baseline=baseline).receipt
        torch.testing.assert_close(receipt.baseline_value, expected, rtol=1e-4, atol=1e-5)


def test_streams_that_a_dict_does_not_name_stay() -> None:
    case = families.CASES["lxmert"]()
    exp = explained(case, "revised_ig", baseline={"visual_feats": Baseline.zero()}, site=Site.input())
    assert not bool(exp.scores["input_ids"].any())
    assert bool(exp.scores["visual_feats"].any())


@pytest.mark.parametrize(("name", "stream"), [("lxmert", "visual_feats"), ("vilt", "pixel_values")])
def test_streams_that_a_local_baseline_does_not_name_stay(name: str, stream: str) -> None:
    case = families.CASES[name]()
    exp = explained(case, "revised_ig", baseline={stream: Baseline.zero().local()}, site=Site.block(0))
    assert [k for k, s in exp.scores.items() if bool(s.any())] == [stream]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"baseline": {"text": Baseline.zero().local()}}, "unknown stream of the baseline"),
        ({"baseline": Baseline.of(torch.zeros(3, 4))}, "must have the shape"),
        ({"baseline": Baseline.black()}, "depends on the normalisation"),
        ({"baseline": Baseline.mask_token(3)}, "baseline of token ids"),
        ({"baseline": {"text": Baseline.zero()}}, "unknown stream of the baseline"),
        ({"baseline": Baseline.blur(2.0).local()}, "has a local form"),
        ({"site": Site.block(99)}, "block 99 is out of range: the run has 2 blocks"),
        ({"site": Site.attention(99)}, "attention 99 is out of range"),
        ({"site": Site.attention(0), "baseline": Baseline.mean()}, "A0 = 0"),
        ({"steps": 0}, "steps is a whole number from 1 to 2000, not 0"),
        ({"tolerance": 2.0}, "tolerance is a share"),
        ({"grid": "simpson"}, "unknown grid"),
    ],
)
def test_what_does_not_fit_is_one_sentence(options: dict, says: str) -> None:
    case = families.CASES["vit"]()
    with pytest.raises(Misuse, match=says):
        explained(case, "revised_ig", **options)


def test_a_baseline_that_is_the_input_is_refused() -> None:
    case = families.CASES["vit"]()
    with pytest.raises(Misuse, match=r"equals its input.*T = 0"):
        explained(case, "integrated_gradients", baseline=Baseline.of(case.inputs["pixel_values"]))


@pytest.mark.parametrize("method", ["gae", "gradient", "raw_attention", "random"])
def test_methods_that_have_their_own_take_neither_site_nor_baseline(method: str) -> None:
    case = families.CASES["vit"]()
    with pytest.raises(Misuse, match="no baseline can be given"):
        explained(case, method, baseline=Baseline.zero())
    with pytest.raises(Misuse, match="cannot be given to method"):
        explained(case, method, site=Site.block(0))


class TokensFirst(torch.nn.Module):
    """(batch, token, width) in, (token, batch, width) inside."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(8, 2, 16)
        self.encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x.transpose(0, 1))[0]


def test_one_token_of_one_sample_in_a_model_that_has_tokens_first() -> None:
    """Which of two axes of length 1 is the samples' cannot be known: points then run one by one."""
    model, x = TokensFirst().eval(), torch.randn(3, 1, 8)
    batch = regard.explain(model, x, 1, "revised_ig", site=Site.block(0), steps=4).scores["input"]
    for b in range(3):
        one = regard.explain(model, x[b : b + 1], 1, "revised_ig", site=Site.block(0), steps=4).scores["input"]
        torch.testing.assert_close(one[0], batch[b])
