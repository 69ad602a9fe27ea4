"""How a model is let write, what its decoder begins with, and answers that are there already."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as T
from tokenizers import pre_tokenizers

import regard
from regard import Target
from regard.errors import InputError, Misuse, ModelError
from regard.models.texts import spaced
from regard.report.generation.html import fragment
from regard.report.generation.view import view
from support.chats import USER, WORDS, bart, donut, llama, plain, t5, tokenizer, writer

torch.set_num_threads(1)

# -- what a decoder begins with ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [t5, bart])
@pytest.mark.parametrize("started", [True, False])
def test_what_a_decoder_was_given_is_not_explained_as_if_it_wrote_it(make, started):
    reader = make()
    start = [reader.model.config.decoder_start_token_id] if started else []
    given = torch.tensor([[*start, *tokenizer().convert_tokens_to_ids(["le", "chat"])]])
    g = reader.explain_generation("the cat sleeps", 2, decoder_input_ids=given)
    ids = plain(reader, g, decoder_input_ids=given, max_new_tokens=2)
    assert g.ids == ids[3:]
    assert (g.start, len(g)) == (3, 2)
    assert g.texts["decoder_input_ids"].text.startswith("le chat")
    assert g.prompt == "the cat sleeps"
    alone = regard.explain(
        reader.model,
        dict(reader.read("the cat sleeps").inputs) | {"decoder_input_ids": torch.tensor([ids])},
        Target.next_token(g.ids[1], 3),
        g.method,
    )
    for stream, scores in alone.scores.items():
        torch.testing.assert_close(g[1].scores[stream], scores)
    assert [p.name for p in view(g).read] == ["What it read", "Begun with"]
    assert fragment(g)


def test_a_language_that_is_forced_is_not_the_models_own():
    reader = t5(forced_bos_token_id=12)
    g = reader.explain_generation("the cat sleeps", 2)
    assert (g.start, len(g), g.tokens[4]) == (2, 2, tokenizer().convert_ids_to_tokens(12))
    assert g.ids == plain(reader, g, max_new_tokens=3)[2:]
    asked = t5().explain_generation("the cat sleeps", 2, forced_bos_token_id=12)
    assert asked.ids == g.ids


@pytest.mark.parametrize("kind", ["donut-swin", "vit"])
def test_a_reader_of_documents_is_told_its_task_in_words(kind):
    reader = donut(kind)
    picture = torch.zeros(20, 20, 3, dtype=torch.uint8)
    picture[4:9] = 200
    task = "<|system|> is it hot ? <|end|>"
    ids = tokenizer()(task)["input_ids"]
    g = reader.explain_generation((picture, task), 2)
    given = torch.tensor([ids])
    own = plain(reader, g, raw=picture, decoder_input_ids=given, max_new_tokens=2)
    assert g.ids == own[-2:]
    assert own[: g.start] == ([0] if kind == "vit" else []) + ids
    assert g.prompt == "is it hot ?"
    assert [p.name for p in view(g).read] == ["Prompt"]
    following = reader.explain((picture, task), Target.next_token())
    assert int(following.receipt.explained) == g.ids[0]
    torch.testing.assert_close(following.scores["pixel_values"], g[0].scores["pixel_values"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (torch.zeros(2, 3, dtype=torch.long), "the ids of one text"),
        (torch.zeros(1, 3), "the ids of one text"),
        ([[0, 999]], "has the id 999, but T5ForConditionalGeneration knows 26 tokens"),
        ("le chat", "must be a text, or the ids|the ids of one text"),
        ([], "is empty"),
    ],
)
def test_ids_that_no_decoder_can_begin_with_are_one_sentence(given, says):
    with pytest.raises(InputError, match=says):
        t5().explain_generation("the cat sleeps", 2, decoder_input_ids=given)


# -- how to write -----------------------------------------------------------------------------------------------------


def test_a_generation_config_says_how_to_write():
    reader = writer()
    drawn = T.GenerationConfig(do_sample=True, temperature=3.0, max_new_tokens=4)
    a, b = (reader.explain_generation("is it hot ?", generation_config=drawn, seed=s) for s in (1, 1))
    assert a.ids == b.ids
    assert len(a) == 4
    same = reader.explain_generation("is it hot ?", 4, do_sample=True, temperature=3.0, seed=1)
    assert a.ids == same.ids
    greedy = reader.explain_generation("is it hot ?", 3, generation_config=T.GenerationConfig(max_new_tokens=9))
    assert greedy.ids == reader.explain_generation("is it hot ?", 3).ids
    assert len(reader.explain_generation("is it hot ?", 2, return_dict_in_generate=True, output_scores=True)) == 2


@pytest.mark.parametrize("given", ["pad", regard.Baseline.pad_token(0)])
def test_a_generation_is_explained_against_a_baseline(given):
    reader = writer()
    g = reader.explain_generation("is it hot ?", 2, method="integrated_gradients", baseline=given)
    assert "pad token" in g[0].receipt.baseline
    inputs = {"input_ids": torch.tensor([[*reader.read("is it hot ?").inputs["input_ids"][0].tolist(), *g.ids]])}
    inputs["input_ids"][0, :3] = (
        0  # the token that is read stays; so do those that are written, in what is read of them
    )
    assert g[0].receipt.baseline_value is not None
    with torch.no_grad():
        expected = reader.model(input_ids=inputs["input_ids"][:, :4]).logits[0, -1, g.ids[0]]
    torch.testing.assert_close(g[0].receipt.baseline_value[0], expected, rtol=1e-4, atol=1e-5)


def test_a_generation_is_explained_at_a_site():
    g = writer().explain_generation("is it hot ?", 1, method="grad_cam", site="block[0]")
    assert g[0].receipt.site.startswith("block[0]")


def test_writing_stops_at_strings():
    reader, drawn = writer(), {"do_sample": True, "temperature": 5.0, "seed": 3}
    free = reader.explain_generation("is it hot ?", 8, **drawn)
    names = tokenizer().convert_ids_to_tokens(free.ids)
    at = next(i for i in range(1, 7) if names[i] in WORDS and names[i] not in " ".join(names[:i]))
    assert reader.explain_generation("is it hot ?", 8, stop_strings=[names[at]], **drawn).ids == free.ids[: at + 1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_return_sequences": 2}, "one text is written and explained at a time"),
        (
            {"generation_config": T.GenerationConfig(num_return_sequences=3, do_sample=True)},
            "not num_return_sequences=3",
        ),
        ({"max_length": 9}, "max_length counts the prompt as well"),
        ({"tools": []}, r"give \{'messages': \[...\], 'tools': ...\}"),
        ({"continue_final_message": True}, "is for the chat's template"),
        ({"answer": "yes"}, "explain_writing"),
        ({"baseline": "mask"}, "no mask token"),
        ({"temperature": "hot", "do_sample": True}, "generate refuses this"),
    ],
)
def test_options_of_writing_that_do_not_fit_are_one_true_sentence(options, says):
    with pytest.raises(Misuse, match=says):
        writer().explain_generation("is it hot ?", 2, method="integrated_gradients", **options)


# -- an answer that is there already ----------------------------------------------------------------------------------


def logp(reader: Any, inputs: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """Log-probability of each of the last ids, by hand."""
    with torch.no_grad():
        scores = reader.model(**inputs).logits[0].log_softmax(-1)
    return torch.stack([scores[i - len(ids) - 1, id] for i, id in enumerate(ids)])


def with_answer(reader: Any, prompt: Any, ids: list[int]) -> dict[str, torch.Tensor]:
    given, new = dict(reader.read(prompt).inputs), torch.tensor([ids])
    if "decoder_input_ids" in given:
        return given | {"decoder_input_ids": torch.cat([given["decoder_input_ids"], new], 1)}
    long = torch.cat([given["input_ids"], new], 1)
    return given | {"input_ids": long, "attention_mask": torch.ones_like(long)}


@pytest.mark.parametrize("make", [writer, t5, bart])
def test_an_answer_that_is_there_is_explained_token_by_token_and_as_a_whole(make):
    reader = make()
    ids = tokenizer().convert_tokens_to_ids(["yes", "very", "hot"])
    for answer in ("yes very hot", ids, torch.tensor([ids])):
        g = reader.explain_writing("is it hot ?", answer, target="log_probability")
        assert g.ids == ids
        assert g.text.split() == ["yes", "very", "hot"]
    inputs = with_answer(reader, "is it hot ?", ids)
    each = logp(reader, inputs, ids)
    torch.testing.assert_close(torch.cat([e.receipt.target_value for e in g]), each)
    torch.testing.assert_close(g.whole.receipt.target_value, each.sum()[None])
    targets = [Target.log_probability(id, i - 4) for i, id in enumerate(ids)]
    for mine, alone in zip(g, regard.explain(reader.model, inputs, targets, g.method), strict=True):
        for stream, scores in alone.scores.items():
            torch.testing.assert_close(mine.scores[stream], scores)
    assert g.whole.target == "log-probability of 'yes very hot' (3 tokens)"
    assert [w.text for w in g.whole.words[0][:4]] == ["is", "it", "hot", "?"]


def test_the_gradient_of_a_whole_answer_is_the_sum_of_its_tokens():
    g = writer().explain_writing("is it hot ?", "yes very hot", target="log_probability", method="input_x_gradient")
    torch.testing.assert_close(g.whole.scores["input_ids"][0], g.scores.sum(0))


def test_what_the_model_wrote_itself_is_explained_alike():
    reader = writer()
    for prompt in ("is it hot ?", [USER]):
        own = reader.explain_generation(prompt, 3)
        whole = [*reader.read(prompt).inputs["input_ids"][0].tolist(), *own.ids]
        for ids in (own.ids, torch.tensor([whole])):
            given = reader.explain_writing(prompt, ids)
            assert given.ids == own.ids
            assert torch.equal(given.scores, own.scores)
            assert not any("not the one" in note for e in given for note in e.receipt.notes)


@pytest.mark.parametrize("make", [writer, t5])
@pytest.mark.parametrize("rival", ["no", "no .", "yes no"])
def test_an_answer_against_another(make, rival):
    reader, mine = make(), "yes" if rival == "no" else "yes ."
    read = tokenizer()
    a, b = (read(text)["input_ids"] for text in (mine, rival))
    g = reader.explain_writing("is it hot ?", mine, against=rival, method="input_x_gradient")
    first = logp(reader, with_answer(reader, "is it hot ?", a), a)
    second = logp(reader, with_answer(reader, "is it hot ?", b), b)
    torch.testing.assert_close(g.whole.receipt.target_value, (first.sum() - second.sum())[None])
    torch.testing.assert_close(g[0].receipt.target_value[0], first[0] - second[0])
    assert g.target == "contrast"
    if rival == "no .":  # the second tokens are the same
        assert float(g[1].receipt.target_value) == 0
        assert "does not tell them apart" in " ".join(g[1].receipt.notes)
        alone = [reader.explain_writing("is it hot ?", t, method="input_x_gradient").whole for t in (mine, rival)]
        stream, start = g.stream, g.start
        shared = alone[0].scores[stream][:, :start] - alone[1].scores[stream][:, :start]
        torch.testing.assert_close(g.whole.scores[stream][:, :start], shared)
        torch.testing.assert_close(g.whole.scores["against"], -alone[1].scores[stream][:, start:])
        total = torch.cat(list(g.whole.scores.values()), 1).sum(1)
        torch.testing.assert_close(g.whole.receipt.attribution_sum, total)
        with pytest.raises(Misuse, match="nothing moves"):
            g[1].transfer()
        with pytest.raises(Misuse, match="in a pass of its own; ask one of them how attention is transferred"):
            g.whole.transfer()
        assert float(alone[0].transfer()[-1].amount) > 0


def test_answers_of_other_lengths_are_compared_in_sum(tmp_path):
    reader = writer()
    g = reader.explain_writing("is it hot ?", "yes", against="no not it", method="integrated_gradients")
    assert g.target == "log_probability"
    assert len(g) == 1
    assert g.whole.scores["against"].shape == (1, 3)
    assert g.whole.inputs["against"][0].tokens == ["no", "<unk>", "it"]
    again = regard.Generation.load(g.save(tmp_path / "g.safetensors"))
    assert again.whole.receipt.as_dict() == g.whole.receipt.as_dict()
    assert all(torch.equal(again.whole.scores[s], g.whole.scores[s]) for s in g.whole.scores)
    assert again.whole.inputs == g.whole.inputs
    assert g.whole.receipt.attribution_target is not None
    g.whole.to_html(tmp_path / "whole.html")


def test_a_space_is_put_between_words_only():
    read = tokenizer()
    read.backend_tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    reader = regard.load(llama(), processor=read)
    said = {a: reader.explain_writing("is it hot", a).texts["input_ids"].text for a in ("yes", " yes", "? yes")}
    assert said["yes"] == said[" yes"] == "is it hot yes"
    assert said["? yes"].replace(" ", "") == "isithot?yes"
    assert spaced("is it", "yes")
    assert not spaced("热", "很")
    assert not spaced("is it ", "yes")


@pytest.mark.parametrize(
    ("answer", "against", "says"),
    [
        (" ", None, "the answer is empty"),
        ([], None, "the answer is empty"),
        ([999], None, "has the id 999"),
        (5, None, "the ids of one text"),
        ({"yes": 1}, None, "must be a text, or the ids"),
        ("yes", "yes", "are the same"),
        ("yes " * 2100, None, "takes 2048"),
    ],
)
def test_answers_that_cannot_be_read_are_one_sentence(answer, against, says):
    with pytest.raises(Misuse, match=says):
        writer().explain_writing("is it hot ?", answer, against)


def test_an_answer_goes_with_one_prompt():
    with pytest.raises(Misuse, match="goes with one prompt"):
        writer().explain_writing(["is it", "it is"], "yes")


def test_what_writes_nothing_has_no_answer_to_explain():
    with pytest.raises(ModelError, match="cannot write"):
        regard.load(llama("LlamaForSequenceClassification"), processor=tokenizer()).explain_writing("is it", "yes")
