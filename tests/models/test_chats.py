"""Chats and prompts: what a template writes for which use, special tokens that a text spells, and what is written after."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

import regard
from regard import Target
from regard.errors import InputError, Misuse, ModelError
from regard.models.texts import spaced
from regard.report.generation.html import fragment
from regard.report.generation.view import view
from support.tiny import strong

torch.set_num_threads(1)

WORDS = ["is", "it", "hot", "?", "yes", "no", ".", "very", "le", "chat", "dort", "the", "cat", "sleeps"]
WORDS += ["safe", "unsafe", "verdict", "JSON"]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
CHATML = (
    "{% if tools %}<|system|> {{ tools | tojson }} <|end|> {% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% if enable_thinking is defined %}very {% endif %}{% endif %}"
)
GUARD = "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> {% endfor %}verdict safe or unsafe : "
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
USER = {"role": "user", "content": "is it hot ?"}
ANSWER = {"role": "assistant", "content": "yes ."}


def tokenizer(template: str | None = CHATML, around: str = "$A") -> Any:
    """Whole words; `around`: what it puts around a text of its own accord."""
    known = [*SPECIAL, *WORDS]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single=around, special_tokens=[("<s>", 2), ("</s>", 3)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    out = T.PreTrainedTokenizerFast(tokenizer_object=made, **names, extra_special_tokens=SPECIAL[4:])
    out.chat_template = template
    return out


def llama(head: str = "LlamaForCausalLM", **more: Any) -> nn.Module:
    config = T.LlamaConfig(vocab_size=len(SPECIAL + WORDS), pad_token_id=0, eos_token_id=None, **SMALL, **more)
    return strong(getattr(T, head)(config))


class Verifier(nn.Module):
    """A head of one's own on a decoder, as people train them: the score of the last token."""

    def __init__(self) -> None:
        super().__init__()
        self.body = llama("LlamaModel")
        self.score = nn.Linear(16, 1)

    def forward(self, input_ids, attention_mask=None):
        return self.score(self.body(input_ids, attention_mask).last_hidden_state[:, -1])


def writer(template: str = CHATML) -> Any:
    return regard.load(llama(), processor=tokenizer(template))


def shown(reader: Any, chat: Any) -> str:
    return reader.read(chat).raw["input_ids"][0].text


# -- what a template writes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: llama("LlamaForSequenceClassification", num_labels=1), Verifier])
def test_what_scores_a_conversation_reads_it_as_it_is(make):
    model, read = make().eval(), tokenizer()
    ids = read.apply_chat_template([USER, ANSWER], return_tensors="pt")["input_ids"]
    out = model(ids)
    exp = regard.load(model, processor=read).explain([USER, ANSWER], Target.logit(0))
    torch.testing.assert_close(
        exp.receipt.target_value, (out if isinstance(out, torch.Tensor) else out.logits)[0].detach()
    )
    assert exp.tokens[0][-2:] == [".", "<|end|>"]
    assert not [note for note in exp.receipt.notes if "turn" in note]
    assert shown(regard.load(model, processor=read), [USER]).endswith("<|end|> ")


def test_what_writes_is_shown_the_turn_that_it_is_to_write():
    assert shown(writer(), [USER]).endswith("<|assistant|> ")


@pytest.mark.filterwarnings("ignore:the chat ends")
def test_a_turn_that_has_begun_is_gone_on_with():
    reader = writer()
    g = reader.explain_generation([USER, ANSWER], 2)
    assert g.prompt == "<|user|> is it hot ? <|end|> <|assistant|> yes ."
    assert g[0].receipt.notes == [
        "the chat ends with the assistant's turn, which the model goes on with (continue_final_message=True)"
    ]
    text = g.texts["input_ids"]
    assert [t for t, s in zip(text.tokens, text.special, strict=True) if not s][:6] == [
        "is",
        "it",
        "hot",
        "?",
        "yes",
        ".",
    ]
    asked = {"messages": [USER, ANSWER], "add_generation_prompt": True}
    assert shown(reader, asked).endswith("yes . <|end|> <|assistant|> ")
    said = {"messages": [USER, ANSWER], "continue_final_message": True}
    assert shown(reader, said) == g.prompt
    assert not reader.explain_generation(said, 1)[0].receipt.notes


def test_a_guard_reads_its_own_question_after_the_last_turn():
    g = writer(GUARD).explain_generation([USER, ANSWER], 1)
    assert g.prompt.endswith("verdict safe or unsafe : ")
    assert "as its template writes it" in g[0].receipt.notes[0]


def test_tools_and_options_of_the_template_are_passed_on():
    reader = writer()
    tool = {"type": "function", "function": {"name": "thermometer", "description": "JSON"}}
    text = reader.read({"messages": [USER], "tools": [tool], "chat_template_kwargs": {"enable_thinking": True}})
    text = text.raw["input_ids"][0]
    assert json.dumps(tool) in text.text
    assert text.text.endswith("<|assistant|> very ")
    spelt = text.text.index(json.dumps(tool))
    inside = [
        s
        for (a, b), s in zip(text.offsets, text.special, strict=True)
        if spelt <= a < b <= spelt + len(json.dumps(tool))
    ]
    assert inside
    assert not any(inside), "what a tool is called is the user's, not the template's"
    with pytest.raises(InputError, match="does not read 'temperature'"):
        reader.read({"messages": [USER], "temperature": 1})


def test_a_batch_of_chats_each_with_its_own():
    model = llama("LlamaForSequenceClassification", num_labels=1)
    reader = regard.load(model, processor=tokenizer())
    both = reader.explain([[USER, ANSWER], {"messages": [USER], "add_generation_prompt": True}], 0)
    ends = [[t for t in tokens if t != "<pad>"][-1] for tokens in both.tokens]
    assert ends == ["<|end|>", "<|assistant|>"]


@pytest.mark.parametrize(
    ("chat", "says"),
    [
        ([{"role": "user", "content": 5}], "the content of message 0 is a int; give a str"),
        ([{"role": "user", "content": ["hot"]}], "the content of message 0 is a list"),
        ([{"from": "human", "value": "is it hot ?"}], "a chat is a list of messages"),
        ({"prompt": "is it hot ?"}, "a chat is a list of messages"),
        ([{"role": "user", "content": None}], "the chat is empty"),
        ({"messages": [USER, ANSWER], "continue_final_message": True, "add_generation_prompt": True}, "refuses these"),
        ({"messages": [USER], "padding": True}, "does not read 'padding'"),
    ],
)
def test_chats_that_cannot_be_read_are_one_sentence(chat, says):
    with pytest.raises(InputError, match=says):
        writer().read(chat)


# -- special tokens that a text spells --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("around", "text", "tokens"),
    [
        ("<s> $A", "<s> <|user|> is it", ["<s>", "<|user|>", "is", "it"]),
        ("<s> $A </s>", "<s> is it </s>", ["<s>", "is", "it", "</s>"]),
        ("$A </s>", "is it </s>", ["is", "it", "</s>"]),
        ("<s> $A </s>", "is it </s>", ["<s>", "is", "it", "</s>"]),
        ("$A", "<s> is it", ["<s>", "is", "it"]),
    ],
)
def test_special_tokens_that_a_text_spells_are_not_put_there_twice(around, text, tokens):
    exp = regard.load(llama(), processor=tokenizer(around=around)).explain(text, Target.next_token())
    assert exp.tokens[0] == tokens
    assert [w.text for w in exp.words[0]] == ["is", "it"]
    raw = exp.inputs["input_ids"][0]
    assert raw.special == [t in SPECIAL for t in tokens]
    assert any("read as special tokens, as the text spells them" in n for n in exp.receipt.notes)
    doubled = around != "$A"
    assert any("not put there once more" in n for n in exp.receipt.notes) == doubled


def test_a_prompt_that_was_rendered_is_the_chat_itself():
    read = tokenizer("<s> " + CHATML, around="<s> $A")
    reader = regard.load(llama(), processor=read)
    prompt = read.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    a, b = reader.explain_generation(prompt, 3), reader.explain_generation([USER], 3)
    assert (a.ids, a.tokens, a.text) == (b.ids, b.tokens, b.text)
    torch.testing.assert_close(a.scores, b.scores)


def test_an_unknown_word_is_content_and_not_special():
    text = writer().read([{"role": "user", "content": "is zebra hot"}]).raw["input_ids"][0]
    at = text.tokens.index("<unk>")
    assert text.text[slice(*text.offsets[at])] == "zebra"
    assert not text.special[at]


def test_a_mask_that_is_to_be_filled_needs_no_note():
    read = tokenizer()
    read.mask_token = "verdict"
    exp = regard.load(llama(), processor=read).explain("is it verdict", Target.next_token())
    assert not exp.receipt.notes


# -- what a decoder begins with ---------------------------------------------------------------------------------------


def t5(**more: Any) -> Any:
    small = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T.T5Config(vocab_size=len(SPECIAL + WORDS), decoder_start_token_id=0, eos_token_id=None, **small)
    model = strong(T.T5ForConditionalGeneration(config))
    model.generation_config.update(**more)
    return regard.load(model, processor=tokenizer())


def bart() -> Any:
    heads = {f"{s}_{w}": n for s in ("encoder", "decoder") for w, n in (("layers", 1), ("attention_heads", 2))}
    width = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 40}
    ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = T.BartConfig(vocab_size=len(SPECIAL + WORDS), forced_eos_token_id=None, **heads, **width, **ends)
    return regard.load(strong(T.BartForConditionalGeneration(config)), processor=tokenizer())


def donut(folder_name: str = "donut-swin") -> Any:
    """A reader of documents: an encoder of pictures, and a decoder that is told its task."""
    if folder_name == "donut-swin":
        small = {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 2}
        encoder = T.DonutSwinConfig(**small)
    else:
        encoder = T.ViTConfig(image_size=16, patch_size=4, **SMALL)
    width = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
    decoder = T.TrOCRConfig(vocab_size=len(SPECIAL + WORDS), max_position_embeddings=30, **width)
    config = T.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id = config.pad_token_id = 0
    model = T.VisionEncoderDecoderModel(config)
    model.generation_config.update(decoder_start_token_id=0, eos_token_id=None)
    pictures = T.ViTImageProcessorPil(size={"height": 16, "width": 16})
    return regard.load(strong(model), processor=T.TrOCRProcessor(pictures, tokenizer()))


def plain(reader: Any, g: Any, **more: Any) -> list[int]:
    """What the model itself writes from the same, made by hand."""
    inputs = {k: v for k, v in reader.read(more.pop("raw", "the cat sleeps")).inputs.items() if "decoder" not in k}
    return reader.model.generate(**inputs, **more, do_sample=False, num_beams=1)[0].tolist()


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
    for mine, alone in zip(g, regard.explain(reader.model, inputs, targets), strict=True):
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
        assert "nothing tells them apart" in " ".join(g[1].receipt.notes)
        alone = [reader.explain_writing("is it hot ?", t, method="input_x_gradient").whole for t in (mine, rival)]
        stream, start = g.stream, g.start
        shared = alone[0].scores[stream][:, :start] - alone[1].scores[stream][:, :start]
        torch.testing.assert_close(g.whole.scores[stream][:, :start], shared)
        torch.testing.assert_close(g.whole.scores["against"], -alone[1].scores[stream][:, start:])
        total = torch.cat(list(g.whole.scores.values()), 1).sum(1)
        torch.testing.assert_close(g.whole.receipt.attribution_sum, total)


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


# -- pictures in chats ------------------------------------------------------------------------------------------------

PART = "{% if p['type'] == 'image' %}<image> {% else %}{{ p['text'] }} {% endif %}"
PLACES = (
    "{% for m in messages %}{{ m['role'] }} {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    f"{{% for p in m['content'] %}}{PART}{{% endfor %}}{{% endif %}} {{% endfor %}}assistant"
)


@pytest.fixture(scope="module")
def seeing():
    """A vision-language model with a processor that writes pictures into a prompt."""
    read = tokenizer()
    read.add_special_tokens({"extra_special_tokens": [*SPECIAL[4:], "<image>"]})
    place = read.convert_tokens_to_ids("<image>")
    text = T.LlamaConfig(vocab_size=place + 1, pad_token_id=0, eos_token_id=None, **SMALL)
    both = {"text_config": text, "vision_config": T.CLIPVisionConfig(image_size=16, patch_size=8, **SMALL)}
    model = T.LlavaForConditionalGeneration(T.LlavaConfig(**both, image_token_index=place, vision_feature_layer=-1))
    pictures = T.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    how = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    made = T.LlavaProcessor(pictures, read, **how, image_token="<image>", chat_template=PLACES)
    return regard.load(strong(model), processor=made)


@pytest.fixture(scope="module")
def cat(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "cat.png"
    pixels = np.random.RandomState(0).randint(0, 255, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def chat_of(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part, {"type": "text", "text": "is it hot ?"}]}]


def test_pictures_that_a_chat_names_are_read(seeing, cat):
    code = base64.b64encode(cat.read_bytes()).decode()
    expected = seeing.read((cat, "is it hot ?"))
    for part in (
        {"type": "image", "path": str(cat)},
        {"type": "image", "url": str(cat)},
        {"type": "image", "url": cat.as_uri()},
        {"type": "image", "image": Image.open(cat)},
        {"type": "image", "base64": code},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{code}"}},
    ):
        found = seeing.read(chat_of(part))
        for name, value in expected.inputs.items():
            torch.testing.assert_close(found.inputs[name], value)
        assert found.raw["input_ids"][0].text == expected.raw["input_ids"][0].text
    for beside in ((cat, chat_of({"type": "image"})), (cat, [USER]), ([cat], {"messages": [USER]})):
        torch.testing.assert_close(seeing.read(beside).inputs["input_ids"], expected.inputs["input_ids"])
    g = seeing.explain_generation(chat_of({"type": "image", "url": str(cat)}), 1)
    assert bool(g.of("pixel_values").any())


def test_a_prompt_with_places_that_was_rendered_is_taken_as_it_is(seeing, cat):
    prompt = "user <image> is it hot ?  assistant"
    assert seeing.read((cat, prompt)).raw["input_ids"][0].text == prompt
    assert seeing.read("<|user|> is it hot ?").raw["input_ids"][0].text == "<|user|> is it hot ?"


def test_an_answer_to_a_picture(seeing, cat):
    g = seeing.explain_writing((cat, "is it hot ?"), "yes .", against="no .")
    own = seeing.explain_writing((cat, "is it hot ?"), tokenizer()("yes .")["input_ids"])
    assert g.ids == own.ids
    assert bool(g.whole.scores["pixel_values"].any())
    assert g.whole.on_original()[0].shape == (20, 24)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda cat: str(cat), r"is a picture's file, and no words; give \(picture, text\)"),
        (lambda cat: "dog.png", "is called like a picture, though there is no such file"),
        (lambda cat: "https://example.com/cat", "is an address on the web"),
        (lambda cat: ("https://example.com/cat.png", "is it"), "https://example.com/cat.png is not fetched"),
        (lambda cat: chat_of({"type": "image", "url": "https://example.com/cat.png"}), "is not fetched"),
        (lambda cat: chat_of({"type": "image"}), "has a place for a picture, but none is given for it"),
        (lambda cat: (cat, chat_of({"type": "image", "path": str(cat)})), "places for 1 pictures, and 1 more"),
        (lambda cat: chat_of({"type": "video", "path": "a.mp4"}), "a part of type 'video'"),
        (lambda cat: chat_of({"type": "image", "base64": "no"}), "holds no picture that Pillow can read"),
        (lambda cat: ([cat, cat], "<image> is it"), "the prompt has 1 of <image>, the place for a picture, for 2"),
        (lambda cat: (cat, [{"role": "system", "content": "is it"}]), "no user's turn"),
    ],
)
def test_what_stands_for_no_picture_is_one_sentence(seeing, cat, given, says):
    with pytest.raises(InputError, match=says):
        seeing.explain_generation(given(cat), 1)


# -- the command line -------------------------------------------------------------------------------------------------


def run(capsys, *arguments: Any) -> tuple[int, str, str]:
    from regard.cli.commands import main

    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    llama().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_a_chat_and_an_answer_on_the_command_line(capsys, monkeypatch, tmp_path, saved):
    monkeypatch.chdir(tmp_path)
    Path("chat.json").write_text(json.dumps({"messages": [USER]}))
    Path("answer.txt").write_text("yes .\n")
    code, out, err = run(capsys, "explain", "chat.json", "-m", saved, "--answer", "answer.txt", "--against", "no .")
    assert (code, err) == (0, "")
    unfolded = " ".join(out.split())  # the terminal folds what is long
    assert "log-probability of 'yes .' (2 tokens) less log-probability of 'no .' (2 tokens)" in unfolded
    assert sorted(p.name for p in Path("regard-out").iterdir()) == [
        "answer.html",
        "chat-gae-answer.png",
        "chat-gae-written.png",
        "report.html",
    ]
    assert "report: regard-out/answer.html" in out
    Path("list.json").write_text(json.dumps([USER, ANSWER]))
    code, out, err = run(
        capsys,
        "explain",
        "list.json",
        "-m",
        saved,
        "--generate",
        1,
        "--baseline",
        "pad",
        "--method",
        "integrated_gradients",
    )
    assert (code, err) == (0, "")
    assert "pad token" in Path("regard-out/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["is it", "--generate", "1", "--against", "no"], "--generate takes no --against"),
        (["is it", "--answer", "yes", "--generate", "2"], "leave one out"),
        (["is it", "--answer", " "], "the answer is empty"),
        (["is it", "--answer", "yes", "--method", "gae,rollout"], "one method at a time"),
        (["is it", "--answer", "yes", "--against", "yes"], "are the same"),
        (["broken.json", "--generate", "1"], "broken.json is not JSON"),
        (["two.json", "--generate", "1"], "two.json holds 2 chats"),
        (["https://example.com/a.txt", "--generate", "1"], "is an address on the web"),
    ],
)
def test_misuse_on_the_command_line(capsys, monkeypatch, tmp_path, saved, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text('[{"role": "user", "content": "is it"')
    Path("two.json").write_text(json.dumps([[USER], [USER]]))
    code, _, err = run(capsys, "explain", *arguments, "-m", saved)
    assert (code, err.count("\n")) == (2, 1)
    assert says in err
