"""The projected step and its rounding: as a slow twin has them, within the budget and the range whatever comes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import regard
from regard.editing.projected import HAIR, Ball, norm_of, step
from support.linear_pictures import LinearPictures, slow_rounding, slow_step

torch.set_num_threads(1)
NORMS = st.sampled_from(["linf", "l2"])


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", range(4))
def test_a_step_is_what_the_slow_twin_does(norm: str, seed: int) -> None:
    shape = (2, 3, 2, 3)
    delta, momentum, gradient = (drawn(3 * seed + i, *shape) for i in range(3))
    low, high = -drawn(seed + 50, *shape).abs(), drawn(seed + 60, *shape).abs()
    radius, size = torch.tensor([0.5, 3.0], dtype=torch.float64), torch.tensor([0.25, 1.5], dtype=torch.float64)
    found = step(delta, momentum, gradient, Ball(norm, radius, low, high), size)
    meant = slow_step(delta, momentum, gradient, norm, radius.tolist(), low, high, size.tolist())
    for mine, slow in zip(found, meant, strict=True):
        assert torch.allclose(mine, slow, rtol=1e-12, atol=1e-14)


@given(st.integers(0, 10_000), st.floats(0.5, 12.0))
@settings(max_examples=40, deadline=None)
def test_rounding_in_l2_is_what_the_slow_twin_does(seed: int, radius: float) -> None:
    some = torch.full((1, 3, 3, 3), torch.inf, dtype=torch.float64)
    ball = Ball("l2", torch.tensor([radius], dtype=torch.float64), -some, some, whole=True)
    delta = ball.project(3 * drawn(seed, 1, 3, 3, 3))
    found = ball.rounded(delta)
    assert torch.equal(found, slow_rounding(delta, radius))
    assert float(norm_of(found, "l2")) <= radius * (1 + 1e-9)


@example(seed=1, norm="l2", share=1 / 3, levels=15, ends=(0.0, 1.0), minimal=False, masked=False)
@given(
    seed=st.integers(0, 10_000),
    norm=NORMS,
    share=st.floats(0.002, 0.9),
    levels=st.sampled_from([None, 255, 15]),
    ends=st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]),
    minimal=st.booleans(),
    masked=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_budget_and_range_are_never_exceeded(seed, norm, share, levels, ends, minimal, masked) -> None:  # type: ignore[no-untyped-def]
    low, high = ends
    span = high - low
    generator = torch.Generator().manual_seed(seed)
    steps_of = levels or 255
    u = low + span * torch.randint(0, steps_of + 1, (2, 3, 4, 4), generator=generator) / steps_of
    u[0, 0] = low  # black and white pixels, which can only change one way
    u[0, 1] = high
    mean, std = [0.4, 0.5, 0.1], [0.2, 2.0, 0.7]
    x = (u - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    mask = torch.rand(4, 4, generator=generator) < 0.5 if masked else None
    if mask is not None:
        mask[0, 0] = True
    budget = max(share * span, span / levels if levels else 0)
    found = regard.rewrite(
        LinearPictures(3, seed=seed), x, 2, within=mask, norm=norm, budget=budget, minimal=minimal, mean=mean, std=std, low=low,
        high=high, levels=levels, steps=4,
    )  # fmt: skip
    assert bool((getattr(found, norm) <= budget * (1 + HAIR)).all())  # a third is five steps of a fifteenth
    assert float(found.pixels.min()) >= low
    assert float(found.pixels.max()) <= high
    moved = (found.pixels - found.original).double()
    assert bool((norm_of(moved, norm) <= budget + 3e-6 * span).all())  # pixels are float32
    assert torch.allclose(found.linf, norm_of(moved, "linf"), atol=3e-6 * span)
    if levels:
        assert torch.allclose(moved * levels / span, (moved * levels / span).round(), atol=1e-3)
    if mask is not None:
        assert torch.equal(found.inputs[..., ~mask], x[..., ~mask])


@pytest.mark.parametrize("levels", [None, 255])
def test_the_smallest_budget_of_a_linear_model_is_the_known_one(levels: int | None) -> None:
    """Two classes: the margin falls by ε ‖w₁ − w₀‖₁ in L∞ and by ε ‖w₁ − w₀‖₂ in L2, as long as no pixel reaches its range."""
    model = LinearPictures(2, seed=5).double()
    x = torch.full((1, 3, 4, 4), 128 / 255, dtype=torch.float64)
    with torch.no_grad():
        z = model(x)[0]
    was = int(z.argmax())
    lead = float(z[was] - z[1 - was])
    w = (model.head.weight[1] - model.head.weight[0]).detach()
    for norm, length in (("linf", float(w.abs().sum())), ("l2", float(w.norm()))):
        least = lead / length
        found = regard.rewrite(
            model, x, 1 - was, norm=norm, budget=6 * least, minimal=True, low=0, high=1, levels=levels
        )
        assert bool(found.success)
        size = float(getattr(found, norm))
        if levels and norm == "linf":
            assert round(size * 255) == -(-least * 255 // 1)
        else:
            assert least <= size <= 1.03 * least
