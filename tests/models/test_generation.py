"""What each token that a model wrote rests on: one pass tells the same as one run for each token, and nothing of the future."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

import regard
from regard import Generation, Target
from regard.errors import InputError, Misuse, ModelError, RegardError
from regard.explanation.raw_inputs import Picture, Text, words_of
from regard.models.generate import _spans, write
from regard.report.generation.html import fragment, page
from regard.report.generation.view import view
from support.every_method import quick
from support.writers import BESIDE, SEEING, WRITERS, save

torch.set_num_threads(1)

PROMPT = "who has the key ?"
CLOSE = "<|end|>\n<|turn|>assistant\n"
CHAT = [
    {"role": "system", "content": "a cat sits"},
    {"role": "user", "content": "what is in the picture ?"},
]
PICTURE = Image.fromarray(np.random.RandomState(0).randint(0, 255, (20, 28, 3), dtype=np.uint8))
every = pytest.mark.parametrize("name", WRITERS)


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    made: dict[str, regard.reader.Reader] = {}

    def load(name: str):
        if name not in made:
            made[name] = regard.load(save(name, tmp_path_factory.mktemp(name)))
        return made[name]

    return load


def prompt(name: str):
    return (PICTURE, "what is in the picture ?") if name in SEEING else PROMPT


def inputs_of(reader, name: str, g: Generation, upto: int | None = None) -> dict[str, torch.Tensor]:
    """The inputs of a pass over the prompt and (some of) what was written, made by hand."""
    given = dict(reader.read(prompt(name)).inputs)
    new = torch.tensor([g.ids[:upto]], dtype=torch.long)
    if name in BESIDE:
        return given | {"decoder_input_ids": torch.cat([given["decoder_input_ids"], new], 1)}
    long = {"input_ids": torch.cat([given["input_ids"], new], 1)}
    long["attention_mask"] = torch.ones_like(long["input_ids"])
    if "token_type_ids" in given:  # PaliGemma: 1 for what is read forwards only
        long["token_type_ids"] = torch.cat([given["token_type_ids"], torch.ones_like(new)], 1)
    return given | long


def close(a: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


# -- the maps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", quick(WRITERS, ["llama", "t5", "llava"]))
def test_each_map_is_that_of_its_token_on_the_sequence_and_on_the_prefix_alone(reader, name):
    r = reader(name)
    g = r.explain_generation(prompt(name), 5, min_new_tokens=5)
    whole = inputs_of(r, name, g)
    for i, id in enumerate(g.ids):
        alone = regard.explain(r.model, whole, Target.next_token(id, g.start + i - 1), g.method)
        cut = regard.explain(r.model, inputs_of(r, name, g, i), Target.next_token(id), g.method)
        for stream, scores in g[i].scores.items():
            assert torch.equal(scores, alone.scores[stream]), (i, stream)
            length = cut.scores[stream].shape[1]
            close(scores[:, :length], cut.scores[stream], 1e-5)
            assert not scores[:, length:].any(), "a token rests on itself or on what comes after it"
        close(g[i].receipt.target_value, cut.receipt.target_value, 1e-5)
        close(g[i].receipt.attribution_target, alone.receipt.attribution_target, 1e-5)
        assert float(g[i].receipt.faithful) == 0


@every
def test_it_writes_what_the_model_writes(reader, name):
    r = reader(name)
    given = r.read(prompt(name)).inputs
    plain = r.model.generate(
        **{k: v for k, v in given.items() if not k.startswith("decoder")}, max_new_tokens=6, do_sample=False
    )
    g = r.explain_generation(prompt(name), 6)
    assert g.ids == plain[0, g.start :].tolist()
    assert all(torch.equal(e.receipt.predicted, e.receipt.explained) for e in g)
    assert not [n for e in g for n in e.receipt.notes if "form=" not in n]
    tokenizer = r.processor.tokenizer if name in SEEING else r.processor
    before, after = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (plain[0, : g.start], plain[0]))
    assert g.text == after.removeprefix(before)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "llava"])
def test_several_positions_in_one_forward_equal_one_by_one(reader, name):
    r = reader(name)
    g = r.explain_generation(prompt(name), 4, min_new_tokens=4)
    inputs = inputs_of(r, name, g)
    targets = [Target.next_token(5, position=p) for p in (g.start - 1, g.start, g.start + 2)]
    targets.append(Target.log_probability(7, position=-2))
    for method in ("gae", "gradient"):
        together = regard.explain(r.model, inputs, targets, method)
        for target, found in zip(targets, together, strict=True):
            alone = regard.explain(r.model, inputs, target, method)
            for stream in found.scores:
                close(found.scores[stream], alone.scores[stream], 1e-6)


def test_logits_to_keep_gives_the_map_of_the_same_token(reader):
    r = reader("llama")
    inputs = dict(r.read(PROMPT).inputs)
    whole = regard.explain(r.model, inputs, Target.next_token(9, position=3))
    few = regard.explain(r.model, inputs | {"logits_to_keep": 3}, Target.next_token(9, position=3))
    close(few.scores["input_ids"], whole.scores["input_ids"], 1e-6)
    with pytest.raises(regard.RegardError, match="were not kept"):
        regard.explain(r.model, inputs | {"logits_to_keep": 1}, Target.next_token(9, position=3))


def test_padding_on_either_side_does_not_move_a_position(reader):
    r = reader("gpt2")
    alone = r.explain(PROMPT, Target.next_token(9, position=-2))
    n = len(alone.tokens[0])
    longer = r.processor("what is in the picture ? a cat", return_tensors="pt")["input_ids"]
    own = r.read(PROMPT).inputs["input_ids"]
    fill = torch.full((1, longer.shape[1] - n), 1)
    for left in (True, False):
        row = torch.cat([fill, own] if left else [own, fill], 1)
        mask = torch.cat([torch.ones_like(longer), (row != 1).long()])
        inputs = {"input_ids": torch.cat([longer, row]), "attention_mask": mask}
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        found = regard.explain(r.model, inputs, Target.next_token(9, position=-2), alone.method)
        close(found.scores["input_ids"][1][mask[1] == 1], alone.scores["input_ids"][0], 1e-5)


@pytest.mark.parametrize("target", ["log_probability", "contrast"])
def test_targets(reader, target):
    r = reader("llama")
    g = r.explain_generation(PROMPT, 3, target=target)
    with torch.no_grad():
        logits = r.model(**inputs_of(r, "llama", g)).logits[0, g.start - 1 : -1]
    for e, id, row in zip(g, g.ids, logits, strict=True):
        others = torch.cat([row[:id], row[id + 1 :]])
        expected = row.log_softmax(-1)[id] if target == "log_probability" else row[id] - others.max()
        torch.testing.assert_close(e.receipt.target_value[0], expected)


def test_a_method_with_its_options(reader):
    g = reader("llama").explain_generation(PROMPT, 2, method="corrected_attention", sign="signed")
    assert g[0].signed
    assert bool((g.scores < 0).any())


# -- writing ----------------------------------------------------------------------------------------------------------


def test_it_stops_where_the_model_stops(reader):
    r = reader("llama")
    ids = r.explain_generation(PROMPT, 6).ids
    stop = ids[2]
    g = r.explain_generation(PROMPT, 6, eos_token_id=stop)
    assert g.ids == ids[: ids.index(stop) + 1]
    assert len(g) == len(g.scores)


def test_drawing_is_seeded_and_leaves_the_random_state(reader):
    r = reader("llama")
    before = torch.get_rng_state()
    draws = [
        r.explain_generation(PROMPT, 6, do_sample=True, top_k=0, temperature=1.5, seed=s).ids for s in (1, 1, 2, 3)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert draws[0] == draws[1]
    assert len({tuple(d) for d in draws}) > 1
    g = r.explain_generation(PROMPT, 6, do_sample=True, top_k=0, temperature=1.5, seed=1)
    unlike = [i for i, e in enumerate(g) if int(e.receipt.predicted) != g.ids[i]]
    assert unlike
    assert all(("not the one that was written" in " ".join(e.receipt.notes)) == (i in unlike) for i, e in enumerate(g))


@pytest.mark.parametrize("name", ["llama", "t5", "llava"])
def test_the_model_and_its_settings_are_left_as_found(reader, name):
    r = reader(name)
    r.explain_generation(prompt(name), 1)  # transformers hangs hooks of its own on some models in their first run
    r.model.generation_config.temperature = 0.7
    r.model.generation_config.do_sample = True
    config = copy.deepcopy(r.model.generation_config.to_dict()), copy.deepcopy(r.model.config.to_dict())
    state = {k: v.clone() for k, v in r.model.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in r.model.modules())
    try:
        r.explain_generation(prompt(name), 3)
        with pytest.raises(Misuse):
            r.explain_generation(prompt(name), 3, no_such_option=1)
        assert (r.model.generation_config.to_dict(), r.model.config.to_dict()) == config
    finally:
        r.model.generation_config.temperature = None
        r.model.generation_config.do_sample = None
    assert all(torch.equal(v, state[k]) for k, v in r.model.state_dict().items())
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in r.model.modules())
    assert all(p.grad is None and p.requires_grad for p in r.model.parameters())
    assert not r.model.training


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ({"max_new_tokens": 0}, Misuse, "from 1 to 100000, not 0"),
        ({"max_new_tokens": 500}, InputError, "takes 96; ask for at most 91"),
        ({"prompt": " "}, InputError, "empty"),
        ({"prompt": "key " * 200}, InputError, "takes at most 96"),
        ({"target": "logits"}, regard.RegardError, "did you mean 'logit'"),
        ({"method": ["gae"]}, Misuse, "one method"),
        ({"max_length": 9}, Misuse, "max_new_tokens"),
        ({"num_return_sequences": 2, "num_beams": 2}, Misuse, "one text is written and explained at a time"),
        ({"no_such_option": 1}, Misuse, "generate refuses this: .*no_such_option"),
        ({"prompt": [{"role": "user", "content": " "}]}, InputError, "chat is empty"),
    ],
)
def test_errors_are_one_sentence(reader, call, error, says):
    with pytest.raises(error, match=says):
        reader("llama").explain_generation(**({"prompt": PROMPT, "max_new_tokens": 3} | call))


def test_models_that_cannot_write_say_so(reader):
    from regard.zoo import folder

    with pytest.raises(ModelError, match="cannot write"):
        regard.load(folder("zoo/bert-sentiment")).explain_generation(PROMPT)
    with pytest.raises(ModelError, match="writes no text"):
        regard.load(folder("zoo/vit-scenes")).explain_generation(PICTURE)
    model = reader("gpt2").model.train()
    try:
        with pytest.raises(ModelError, match="train mode"):
            reader("gpt2").explain_generation(PROMPT)
    finally:
        model.eval()


def test_a_list_of_prompts_gives_a_list(reader):
    both = reader("llama").explain_generation([PROMPT, "a cat"], 2)
    assert [g.prompt for g in both] == [PROMPT, "a cat"]


# -- tokens, words, texts ---------------------------------------------------------------------------------------------


@every
def test_tokens_and_words_fit_the_scores(reader, name):
    g = reader(name).explain_generation(prompt(name), 4, min_new_tokens=4)
    assert g.scores.shape == (len(g), len(g.tokens))
    assert g.scores.dtype == torch.float32
    for i, words in enumerate(g.words):
        texts = g.texts.items()
        assert words == [w for s, t in texts for w in words_of(t, g[i].scores[s][0].tolist())]
    assert g.prompt.endswith(CLOSE if name == "llava" else "?")
    if name in SEEING:
        places = [i for i, t in enumerate(g.tokens) if t == "<image>"]
        assert not g.scores[:, places].any(), "the picture stands there, not a token"
        assert g[0].on_original()[0].shape == (20, 28)
        assert bool(g.of("pixel_values").any())
    if name in BESIDE:
        assert list(g.texts) == ["input_ids", "decoder_input_ids"]


def test_a_chat_is_written_out_and_what_its_template_wrote_is_special(reader):
    g = reader("llama").explain_generation(CHAT, 2)
    text = g.texts["input_ids"]
    assert (
        g.prompt
        == "<s><|turn|>system\na cat sits<|end|>\n<|turn|>user\nwhat is in the picture ?<|end|>\n<|turn|>assistant\n"
    )
    plain = "".join(t for t, s in zip(text.tokens[: g.start], text.special, strict=False) if not s)
    assert plain == "a cat sitswhat is in the picture ?"
    assert not any("|" in w.text or "<" in w.text for w in g.words[0][:-2])
    assert g.tokens.count("<s>") == 1


def test_a_picture_with_a_prompt_takes_the_chat_template_where_there_is_one(reader):
    r = reader("llava")
    read = r.read((PICTURE, "a cat")).raw
    assert isinstance(read["pixel_values"][0], Picture)
    text = read["input_ids"][0]
    assert text.text == "<s><|turn|>user\n<image>a cat<|end|>\n<|turn|>assistant\n"
    assert text.tokens.count("<image>") == 16
    shown = [text.text[a:b] for (a, b), s in zip(text.offsets, text.special, strict=True) if not s]
    assert shown == ["a", "cat"]
    messages = [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "a cat"}]}]
    same = r.read(messages)
    assert same.raw["input_ids"][0].tokens == text.tokens
    assert torch.equal(same.inputs["pixel_values"], r.read((PICTURE, "a cat")).inputs["pixel_values"])
    assert reader("idefics3").read((PICTURE, "a cat")).raw["input_ids"][0].text == "<image>a cat"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ([(PICTURE, "a"), (PICTURE, "b")], "one prompt at a time"),
        ((PICTURE, " "), "prompt is empty"),
        (PICTURE, "reads \\(picture, text\\)"),
        (([PICTURE, PICTURE], "<image> a"), "one <image> per picture: it has 1 for 2"),
        (("nope.png", "a"), "no such picture"),
    ],
)
def test_bad_pairs_are_one_sentence(reader, raw, says):
    with pytest.raises(InputError, match=says):
        reader("llava").read(raw)


def test_a_reader_explains_the_next_token_of_every_kind(reader):
    for name in WRITERS:
        e = reader(name).explain(prompt(name), Target.next_token())
        g = reader(name).explain_generation(prompt(name), 1)
        assert int(e.receipt.explained) == g.ids[0]
        for stream, scores in e.scores.items():
            close(g[0].scores[stream][:, : scores.shape[1]], scores, 1e-5)


def test_parts_of_a_character_share_its_span(reader):
    tokenizer = reader("llama").processor
    ids = tokenizer("é€a 𝄞", add_special_tokens=False)["input_ids"]
    text, spans = _spans(tokenizer, [tokenizer.bos_token_id, *ids], 1, "before ")
    assert text == "before é€a 𝄞"
    assert [text[a:b].strip() for a, b in spans] == ["é"] * 2 + ["€"] * 3 + ["a", ""] + ["𝄞"] * 4


# -- files and pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "t5", "llava"])
def test_save_and_load(reader, name, tmp_path):
    g = reader(name).explain_generation(prompt(name), 3, method="corrected_attention", sign="signed")
    again = Generation.load(g.save(tmp_path / "deep" / "g.safetensors"))
    assert torch.equal(again.scores, g.scores)
    assert (again.ids, again.tokens, again.text, again.prompt, again.words) == (
        g.ids,
        g.tokens,
        g.text,
        g.prompt,
        g.words,
    )
    assert repr(again) == repr(g)
    for a, b in zip(again, g, strict=True):
        assert a.receipt.as_dict() == b.receipt.as_dict() or "nan" in str(a.receipt.as_dict())
        assert (a.options, a.signed, a.target, a.grid) == (b.options, b.signed, b.target, b.grid)
    assert page([again]) == page([g])
    with pytest.raises(InputError, match="not an explanation"):
        regard.Explanation.load(tmp_path / "deep" / "g.safetensors")
    g[0].save(tmp_path / "e")
    with pytest.raises(InputError, match="not a generation"):
        Generation.load(tmp_path / "e")
    with pytest.raises(InputError, match="no such file"):
        Generation.load(tmp_path / "nothing")
    data = (tmp_path / "deep" / "g.safetensors").read_bytes()
    (tmp_path / "bad").write_bytes(data.replace(b'\\"stream\\":', b'\\"strEam\\":'))
    with pytest.raises(InputError, match="damaged"):
        Generation.load(tmp_path / "bad")


@every
def test_units_hold_every_token_once(reader, name):
    g = reader(name).explain_generation(prompt(name), 4, min_new_tokens=4)
    v = view(g)
    for by in ("words", "tokens"):
        assert sorted(c for u in v.coloured(by) for c in u.tokens) == list(range(len(g.tokens)))
    for part in v.read if name not in SEEING else ():
        for by in ("words", "tokens"):
            assert "".join(u.text for u in part.units[by]) == PROMPT
    for row in v.rows:
        assert sum(share for _, share in row.shares) == pytest.approx(1)


def data_of(html: str):
    return json.loads(re.search(r'<script type="application/json" id="regard-data">(.*?)</script>', html, re.S)[1])


def test_the_page_carries_the_scores(reader):
    g = reader("llava").explain_generation(prompt("llava"), 4)
    (shown,) = data_of(page([g]))["generations"]
    for row, scores, e in zip(shown["rows"], g.scores, g, strict=True):
        np.testing.assert_allclose(np.array(row["q"]) * row["top"] / 1000, scores, atol=row["top"] / 1999)
        cells = row["maps"]["pixel_values"]
        at = np.array(cells["cells"]) / cells["limit"]
        np.testing.assert_allclose(at, e.scores["pixel_values"][0] / e.scores["pixel_values"].abs().max(), atol=1e-3)


def test_texts_on_the_page_are_escaped_and_it_asks_for_nothing(reader):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"'"
    g = reader("llama").explain_generation(evil, 3)
    g = Generation([*g], g.ids, g.stream, g.start, g.method, g.target)
    text = g.texts["input_ids"]
    worst = Text(text.text, ["</script><b>"] * len(text.tokens), text.offsets, text.words, text.special)
    for e in g:
        e.inputs["input_ids"] = [worst]
    for html in (page([g]), fragment(g)):
        assert "<script>alert" not in html
        assert "<img src=x" not in html
        assert "</script><b>" not in html
        assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:)?//", html)
    assert page([g]).count("</script>") == 2
    assert "default-src 'none'" in page([g])
    assert "<script" not in fragment(g)
    assert data_of(page([g]))["generations"]


def test_the_page_shows_the_first_token_without_a_script(reader):
    g = reader("t5").explain_generation(PROMPT, 3)
    html = page([g])
    rows = re.findall(r'<div data-row="(\d+)"( hidden)?>', html)
    assert rows == [("0", ""), ("1", " hidden"), ("2", " hidden")]
    assert len(re.findall(r'<button type="button" class="w out', html)) == 3
    alphas = [float(a) for a in re.findall(r"--a:([\d.]+)", html)]
    assert max(alphas) == 1


def test_a_figure_is_drawn(reader, tmp_path):
    for name in ("llama", "t5", "llava"):
        figure = reader(name).explain_generation(prompt(name), 3).plot(tmp_path / f"{name}.png")
        assert figure.get_figheight() > 1
        with Image.open(tmp_path / f"{name}.png") as drawn:
            assert drawn.size[0] > 300


# -- the command line -------------------------------------------------------------------------------------------------


def run(capsys, monkeypatch, tmp_path, *arguments: str) -> tuple[int, str, str]:
    from regard.cli.commands import main

    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def test_generate_on_the_command_line(capsys, monkeypatch, tmp_path):
    folder = save("llava", tmp_path / "m")
    PICTURE.save(tmp_path / "p.png")
    more = ("--image", "p.png", "--generate", 3, "--target", "contrast", "--out", "o")
    code, out, err = run(capsys, monkeypatch, tmp_path, "explain", "what is it ?", "-m", folder, *more)
    assert (code, err) == (0, "")
    assert "rests most on" in out
    html = (tmp_path / "o" / "report.html").read_text()
    assert len(data_of(html)["generations"][0]["rows"]) == 3
    assert len(list((tmp_path / "o").glob("*.png"))) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a cat", "--generate", "0"], "from 1 to 100000, not 0"),
        (["key " * 100, "--generate", "3"], "takes at most 48"),
        (["key " * 46, "--generate", "30"], "ask for at most"),
        ([" ", "--generate", "3"], "empty"),
        (["a cat", "--generate", "3", "--method", "gae,rollout"], "one method"),
        (["a cat", "--generate", "3", "--target", "cat"], "unknown target"),
        (["a cat", "--generate", "3", "--truncate"], "shorten it"),
        (["a cat", "--image", "p.png"], "--image|no such file"),
    ],
)
def test_bad_use_is_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path_factory, tmp_path, arguments, says):
    folder = tmp_path_factory.getbasetemp() / "gpt2-cli"
    if not folder.exists():
        save("gpt2", folder)
    code, _, err = run(capsys, monkeypatch, tmp_path, "explain", *arguments, "-m", folder)
    assert code == 2
    assert re.search(says, err)
    assert err.count("\n") == 1


def test_writing_takes_only_what_generates(reader):
    r = reader("llama")
    odd = copy.copy(r.model)
    odd.generate = lambda **kw: torch.zeros(1, 9, dtype=torch.long)
    with pytest.raises(RegardError, match="not return the prompt"):
        write(odd, r.processor, r.read(PROMPT), 3, {}, 0)
