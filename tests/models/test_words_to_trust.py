"""Which written words rest on the picture: the share of their relevance, and the same words read again by a literal twin."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

import transformers.models.llama.modeling_llama as llama
from torch import Tensor

import regard
from regard.api.words_to_trust import weights
from regard.errors import Misuse, UnknownName
from support.writers import SEEING, save

torch.set_num_threads(1)

PICTURE = Image.fromarray(np.random.RandomState(0).randint(0, 255, (20, 28, 3), dtype=np.uint8))
PROMPT = (PICTURE, "what is in the picture ?")


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    made: dict[str, regard.reader.Reader] = {}

    def load(name: str):
        if name not in made:
            made[name] = regard.load(save(name, tmp_path_factory.mktemp(name)))
        return made[name]

    return load


@pytest.mark.parametrize("name", SEEING)
def test_shares_are_those_of_the_maps(reader, name):
    found = reader(name).words_to_trust(PROMPT, method="attnlrp", max_new_tokens=5)
    assert found.streams == ("pixel_values",)
    for i, exp in enumerate(found.generation):
        sizes = {s: float(x.abs().sum()) for s, x in exp.scores.items()}
        assert float(found.share[i]) == pytest.approx(sizes["pixel_values"] / sum(sizes.values()), rel=1e-5)
    written = reader(name).explain_writing(PROMPT, found.generation.ids, method="gae", target="log_probability")
    read = torch.stack([e.receipt.target_value[0] for e in written])
    torch.testing.assert_close(found.read, read, rtol=1e-5, atol=1e-6)
    assert bool((found.reread != found.read).any())
    text = found.generation.texts[found.generation.stream]
    inside = torch.tensor([w is not None for w in text.word_of[found.generation.start :]])
    assert sum(w.read for w in found.words) == pytest.approx(float(found.read[inside].sum()), rel=1e-5)
    assert all(0 <= w.share <= 1 for w in found.words)


def read_again(model: Any, inputs: dict[str, Any], w: Tensor, id: int, position: int, monkeypatch: Any) -> float:
    """log p of a token, every key of every layer of the language model weighed by w: loops over heads and rows."""

    def attention(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: float, **_: Any) -> Any:
        k, v = (x.repeat_interleave(module.num_key_value_groups, 1) for x in (k, v))
        out = torch.zeros_like(q)
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                A = torch.softmax(q[0, h, i] @ k[0, h, : i + 1].T * scaling, 0) * w[: i + 1]
                out[0, h, i] = (A / A.sum()) @ v[0, h, : i + 1]
        return out.transpose(1, 2), None

    attention_functions = llama.ALL_ATTENTION_FUNCTIONS
    with monkeypatch.context() as patched, torch.no_grad():
        patched.setitem(attention_functions._global_mapping, "twin", attention)
        text = copy.copy(model.config.text_config)
        for layer in model.model.language_model.layers:
            patched.setattr(layer.self_attn, "config", copy.copy(text))
            layer.self_attn.config._attn_implementation_internal = "twin"
        logits = model(**inputs).logits
    return float(torch.log_softmax(logits[0, position], 0)[id])


def test_words_read_again_are_those_of_a_literal_twin(reader, monkeypatch):
    r = reader("llava")
    found = r.words_to_trust(PROMPT, max_new_tokens=3)
    inputs = dict(r.read(PROMPT).inputs)
    start = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([found.generation.ids])], 1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    place = ids[0] == r.model.config.image_token_id
    assert int(place.sum()) == 16
    for i, exp in enumerate(found.generation):
        R = exp.scores["input_ids"][0].clone()
        R[place] = exp.scores["pixel_values"][0]
        w = 1 + R / max(float(s.abs().max()) for s in exp.scores.values())
        for weighed, wanted in ((torch.ones_like(w), found.read), (w, found.reread)):
            mine = read_again(r.model, inputs, weighed, found.generation.ids[i], start + i - 1, monkeypatch)
            assert mine == pytest.approx(float(wanted[i]), rel=1e-4)


def test_a_place_of_a_picture_has_what_its_patches_have(reader):
    r = reader("idefics3")
    exp = r.explain_generation(PROMPT, 1)[0]
    recording = regard.record(r.model, r.read(PROMPT).inputs)
    M = weights(recording, {"pixel_values": exp.scores["pixel_values"]})
    (merge,) = [m for m in recording.merges if m.sources.shape[1] == 4]
    patches = exp.scores["pixel_values"][0][merge.sources - recording.stream("pixel_values").first]
    sums = patches.sum(1)
    torch.testing.assert_close(M[0, merge.rows], 0.5 + sums / (2 * sums.abs().max()), rtol=1e-5, atol=1e-6)


def test_without_relevance_nothing_is_weighed(reader):
    recording = regard.record(reader("llava").model, reader("llava").read(PROMPT).inputs)
    assert torch.equal(weights(recording, {}), torch.full((1, recording.rows), 0.5))


def test_an_answer_that_is_there_and_what_is_shown_can_be_named(reader):
    r = reader("llava")
    found = r.words_to_trust(PROMPT, "a cat sits", shown=["input_ids"])
    assert [w.text for w in found.words] == ["a", "cat", "sits"]
    assert found.streams == ("input_ids",)
    other = r.words_to_trust(PROMPT, "a cat sits")
    assert bool((found.share + other.share <= 1 + 1e-6).all())
    made = json.loads(json.dumps(found.to_dict()))
    assert made["text"].strip() == "a cat sits"
    assert made["words"][1]["change"] == pytest.approx(found.words[1].reread - found.words[1].read)
    assert str(found).splitlines()[2].startswith("cat ")
    with pytest.raises(UnknownName, match="pixels"):
        r.words_to_trust(PROMPT, "a cat", shown=["pixels"])


def test_a_model_that_was_shown_text_alone_is_refused(reader):
    with pytest.raises(Misuse, match="nothing but text"):
        reader("llama").words_to_trust("who has the key ?", max_new_tokens=2)
    found = reader("llama").words_to_trust("who has the key ?", max_new_tokens=2, shown=["input_ids"])
    torch.testing.assert_close(found.share, torch.ones(2))


def test_beside_an_encoder_its_text_can_be_what_is_shown(reader):
    found = reader("t5").words_to_trust("who has the key ?", max_new_tokens=3, shown=["input_ids"])
    assert bool((found.share > 0).all())
    assert bool((found.reread != found.read).any())
