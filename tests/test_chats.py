"""Chats and prompts: what a template writes for which use, special tokens that a text spells, and what is written after."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers as T
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

import regard
from regard import Target
from regard.errors import InputError
from tiny import strong

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
