"""Vision-language models with habits: places that the processor writes itself, pictures of zeros that count as padding."""

from __future__ import annotations

import pytest
import torch

import regard
from regard import Target
from regard.attribution.integral.baseline_values import zero_of
from regard.errors import Misuse
from support.seeing import PICTURE, PROMPT, blip2, tiled

torch.set_num_threads(1)


@pytest.mark.parametrize("language", ["opt", "t5"])
def test_queries_that_stand_for_a_picture_are_read_and_explained(language):
    reader = blip2(language)
    for asked in ((PICTURE, PROMPT), (PICTURE, f"<image>{PROMPT}"), PICTURE):
        inputs = dict(reader.read(asked).inputs)
        assert int((inputs["input_ids"] == reader.model.config.image_token_id).sum()) == 3
        exp = reader.explain(asked, Target.next_token(), "integrated_gradients", baseline="zero")
        if "decoder_input_ids" not in inputs:
            with torch.no_grad():
                plain = reader.model(**inputs).logits[0, -1].max()
            torch.testing.assert_close(exp.receipt.target_value[0], plain)
        assert bool(exp.scores["pixel_values"].any())
        assert exp.receipt.attribution_target is not None
        g = reader.explain_generation(asked, 2, min_new_tokens=2)
        own = reader.model.generate(
            **{k: v for k, v in inputs.items() if "decoder" not in k},
            max_new_tokens=2,
            min_new_tokens=2,
            do_sample=False,
        )
        assert g.ids == own[0, -2:].tolist()
        assert int(exp.receipt.explained) == g.ids[0] or language == "t5"


@pytest.mark.filterwarnings("ignore:it could not be found which part of picture")
@pytest.mark.parametrize("kind", ["SmolVLM", "Idefics3"])
@pytest.mark.parametrize("method", ["integrated_gradients", "input_x_gradient"])
def test_a_picture_of_zeros_is_no_padding_at_a_zero_baseline(kind, method):
    reader = tiled(kind)
    exp = reader.explain((PICTURE, "what ?"), Target.next_token(), method)
    assert reader.read((PICTURE, "what ?")).inputs["pixel_values"].shape[1] > 1
    assert bool(torch.isfinite(exp.receipt.attribution_target).all())
    assert bool(exp.scores["pixel_values"].any())
    assert exp.receipt.faithful == 0


def test_zero_is_zero_but_for_one_value_of_each_picture_in_a_stack():
    x = torch.rand(2, 3, 3, 4, 4) + 1
    x[1, 2] = 0  # padding
    z = zero_of(x)
    assert float(z.abs().max()) < 1e-37
    assert ((z != 0).flatten(2).sum(-1) == torch.tensor([[1, 1, 1], [1, 1, 0]])).all()
    assert not zero_of(torch.rand(2, 3, 4, 4)).any()


def test_a_baseline_that_the_model_cannot_run_on_is_one_sentence():
    class Picky(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)

        def forward(self, x):
            if not x.any():
                raise ValueError("there is no picture here\nat all")
            return self.layer(x).mean(1)

    with pytest.raises(Misuse, match=r"does not run with other values .*\(there is no picture here\)"):
        regard.explain(Picky().eval(), torch.rand(1, 3, 8), 0, "integrated_gradients")
