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

import regard
from regard import Target
from regard.errors import InputError
from support.chats import ANSWER, CHATML, GUARD, SMALL, SPECIAL, USER, Verifier, llama, shown, tokenizer, writer
from support.tiny import strong

torch.set_num_threads(1)

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
        "the chat ends with the assistant's turn, which the model continues (continue_final_message=True)"
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
        ([{"role": "user", "content": 5}], "the content of message 0 is of type int; give a str"),
        ([{"role": "user", "content": ["hot"]}], "the content of message 0 is of type list"),
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
    assert any("the text spells out special tokens, which are read as such" in n for n in exp.receipt.notes)
    doubled = around != "$A"
    assert any("not added again" in n for n in exp.receipt.notes) == doubled


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
    torch.manual_seed(0)  # `strong` leaves the class embedding, a vector, as it is drawn
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
        (lambda cat: str(cat), r"is a picture's file, not a text; give \(picture, text\)"),
        (lambda cat: "dog.png", "is named like a picture, but there is no such file"),
        (lambda cat: "https://example.com/cat", "is an address on the web"),
        (lambda cat: ("https://example.com/cat.png", "is it"), "https://example.com/cat.png is not fetched"),
        (lambda cat: chat_of({"type": "image", "url": "https://example.com/cat.png"}), "is not fetched"),
        (lambda cat: chat_of({"type": "image"}), "has a place for a picture, but none is given for it"),
        (lambda cat: (cat, chat_of({"type": "image", "path": str(cat)})), "places for 1 pictures, and 1 more"),
        (lambda cat: chat_of({"type": "video", "path": "a.mp4"}), "a part of type 'video'"),
        (lambda cat: chat_of({"type": "image", "base64": "no"}), "holds no picture that Pillow can read"),
        (lambda cat: ([cat, cat], "<image> is it"), "the prompt needs one <image> per picture: it has 1 for 2"),
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
        "chat-cp_lrp-answer.png",
        "chat-cp_lrp-written.png",
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
