"""Pictures and texts: a map of each pair is that pair's own, whatever else is in the batch."""

import pytest
import torch

import regard
from regard import Target
from support.tiny_clip import clip, inputs

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(("pictures", "texts", "text"), [(3, 3, None), (3, 2, 0), (2, 3, None), (3, 3, 1), (1, 3, 2)])
@pytest.mark.parametrize("method", ["gae", "rollout", "attention_grad_cam", "input_x_gradient"])
def test_each_pair_is_explained_as_if_alone(pictures: int, texts: int, text: int | None, method: str) -> None:
    model, both = clip(), inputs(pictures, texts)
    exp = regard.explain(model, both, Target.similarity(text), method=method, measure="full")
    for i in range(pictures):
        j = int(exp.receipt.explained[i])
        alone = {"input_ids": both["input_ids"][j : j + 1], "pixel_values": both["pixel_values"][i : i + 1]}
        one = regard.explain(model, alone, Target.similarity(), method=method)
        for name, expected in one.scores.items():
            gap = (exp.scores[name][i] - expected[0]).abs().max()
            assert gap <= 1e-5 * expected.abs().max() + 1e-7, name
        torch.testing.assert_close(exp.receipt.attribution_sum[i], one.receipt.attribution_sum[0], rtol=1e-4, atol=1e-6)
    assert all(s.shape[0] == pictures for s in exp.scores.values())


@pytest.mark.long
def test_attention_is_scaled_alike_whatever_runs_side_by_side() -> None:
    """Scores over all texts of a batch: points of a path that run side by side must not be each other's texts."""
    model, target = clip(), Target.of(lambda out: out.logits_per_image.softmax(-1)[:, 0], "share of the first text")
    for site in (regard.Site.attention(1), regard.Site.attention(joint=True)):
        made = [
            regard.explain(model, inputs(2, 2), target, "integrated_gradients", site=site, memory_budget=budget)
            for budget in (1, None)
        ]
        for name, expected in made[0].scores.items():
            torch.testing.assert_close(made[1].scores[name], expected, rtol=1e-4, atol=1e-6)
