"""Asked in words: the next word, a masked word, a word's tag, where an answer stands; by readers and on the command line."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import regard
from regard import Target
from regard.cli import commands as cli
from regard.errors import InputError, Misuse, TargetError, UnknownName
from regard.explanation.raw_inputs import Reading, Text
from regard.models.token_targets import TokenTargets
from regard.report.view import target_of
from support.tiny import strong
from support.writers import save, tokenizer

T = pytest.importorskip("transformers")

torch.set_num_threads(1)

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "anna",
    "smith",
    "sings",
    "in",
    "berlin",
    "ham",
    "##burg",
    "who",
    "where",
    "?",
    ".",
    "the",
    "mat",
    "cat",
    "is",
    "on",
    "a",
    "bob",
]
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
FACTS = "anna has the lamp . bob has the coin . who has the coin ?"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    def saved(name: str):
        path = tmp_path_factory.getbasetemp() / f"asked-{name}"
        if not path.exists() and name in MADE:
            model = strong(MADE[name]())
            model.save_pretrained(path)
            word_pieces(path).save_pretrained(path)
        elif not path.exists():
            save(name, path)
        return path

    return saved


@pytest.fixture(scope="session")
def reader(folder):
    made = {}

    def load(name: str):
        if name not in made:
            made[name] = regard.load(name if name.startswith("zoo") else folder(name))
        return made[name]

    return load


def word_pieces(path):
    (path / "vocab.txt").write_text("\n".join(WORDS))
    return T.BertTokenizerFast(str(path / "vocab.txt"))


def bert(kind: str, *labels: str):
    names = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}} if labels else {}
    return getattr(T, f"BertFor{kind}")(
        T.BertConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=32, **names)
    )


MADE = {
    "ner": lambda: bert("TokenClassification", "O", "B-PER", "I-PER", "B-LOC"),
    "pos": lambda: bert("TokenClassification", "NOUN", "VERB"),
    "mlm": lambda: bert("MaskedLM"),
    "qa": lambda: bert("QuestionAnswering"),
}


def bare(reader, inputs, target):
    """The same of tensors, by the reader's own default."""
    return regard.explain(reader.model, inputs, target, reader.default_method)


def same(found, expected):
    assert torch.equal(found.receipt.target_value, expected.receipt.target_value)
    for name, scores in expected.scores.items():
        torch.testing.assert_close(found.scores[name], scores, rtol=1e-4, atol=1e-7)


# -- the next word ----------------------------------------------------------------------------------------------------


def test_a_model_that_writes_is_asked_for_its_next_token(reader):
    r = reader("zoo/llama-facts")
    found = r.explain(FACTS)
    same(found, bare(r, r.read(FACTS).inputs, Target.next_token()))
    assert found.target == "next token: the predicted one"
    best = int(found.receipt.explained)
    assert found.prediction is not None
    likely = [c.number for c in found.prediction[0]]
    assert likely[0] == best
    assert found.names == {i: repr(r.processor.decode([i]).strip()) for i in sorted(likely)}
    assert target_of(found, 0) == f"next token: the predicted one ({found.names[best]})"


@pytest.mark.parametrize("word", ["bob", " bob", 16])
def test_the_next_word_is_asked_for_by_its_name(reader, word):
    r = reader("zoo/llama-facts")
    id = r.processor.convert_tokens_to_ids("bob")
    found = r.explain(FACTS, target=id if word == 16 else word)
    same(found, bare(r, r.read(FACTS).inputs, Target.next_token(id)))
    assert found.target == "next token: 'bob'"
    rather = r.explain(FACTS, target=word if word != 16 else id, against="anna")
    anna = r.processor.convert_tokens_to_ids("anna")
    same(rather, bare(r, r.read(FACTS).inputs, Target.contrast(id, anna, -1)))
    assert rather.target == "next token: 'bob' rather than 'anna'"


def test_several_words_are_several_targets_and_several_prompts_one_map_each(reader):
    r = reader("zoo/llama-facts")
    both = r.explain(FACTS, target=["bob", "anna"])
    assert [e.target for e in both] == ["next token: 'bob'", "next token: 'anna'"]
    prompts = [FACTS, "bob has the lamp . who has the lamp ?"]
    many = r.explain(prompts, target="bob", against="anna")
    for i, one in enumerate(prompts):
        alone = r.explain(one, target="bob", against="anna")
        torch.testing.assert_close(many.receipt.target_value[i], alone.receipt.target_value[0])
        scores = many.scores["input_ids"][i]
        torch.testing.assert_close(scores[scores != 0], alone.scores["input_ids"][0][alone.scores["input_ids"][0] != 0])


def asking(left: str, **more):
    """What asks of a byte-level model after some text."""
    made = tokenizer(**more)
    text = Text(left, [], [], [], [])
    model = SimpleNamespace()
    return TokenTargets("next", model, made, Reading({}, {"input_ids": [text]}), "input_ids", [], int), made


@pytest.mark.parametrize(
    ("left", "word", "written"),
    [
        ("who has the", "key", " key"),
        ("who has the", " key", " key"),
        ("who has the ", "key", "key"),
        ("<|turn|>assistant\n", "the", "the"),
        ("who has<|end|>", "the", "the"),
        ("who has the", "?", "?"),
        ("日本", "語", "語"),
        ("", "who", "who"),
    ],
)
def test_a_word_is_written_on_as_the_tokenizer_writes_it(left, word, written):
    ask, made = asking(left)
    assert ask._ids_of(word, left) == made(written, add_special_tokens=False)["input_ids"]


def test_a_token_may_be_called_as_the_tokenizer_calls_it():
    ask, made = asking("a")
    assert ask._ids_of("Ġthe", "a") == [made.convert_tokens_to_ids("Ġthe")]
    assert ask._ids_of("</s>", "a") == [2]


def test_a_word_of_several_tokens_stands_for_its_first(reader):
    r = reader("gpt2")
    found = r.explain("who has the", target="keystone")
    pieces = r.processor(" keystone", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1
    same(found, bare(r, r.read("who has the").inputs, Target.next_token(pieces[0])))
    assert any(f"'keystone' is {len(pieces)} tokens" in n for n in found.receipt.notes)
    assert "the first token of 'keystone'" in found.target
    with pytest.raises(Misuse, match="begin with the same token"):
        r.explain("who has the", target="keystone", against="keyhole")


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        ({"target": "giraffe"}, UnknownName, "has no token for 'giraffe'"),
        ({"target": " "}, Misuse, "empty"),
        ({"token": "zebra"}, UnknownName, "does not hold 'zebra'"),
        ({"token": 99}, TargetError, "there is no token 99"),
        ({"token": 1.5}, Misuse, "named by a word of the text or by its number"),
        ({"target": Target.next_token(3), "against": "bob"}, Misuse, "go with a word"),
        ({"target": 1000}, TargetError, "class 1000 is out of range"),
    ],
)
def test_words_that_cannot_be_asked_for(reader, ask, error, says):
    with pytest.raises(error, match=says):
        reader("zoo/llama-facts").explain(FACTS, **ask)


def test_the_word_after_a_word_inside_the_text(reader):
    r = reader("zoo/llama-facts")
    found = r.explain(FACTS, token="lamp", target=".")
    at = r.read(FACTS).raw["input_ids"][0].tokens.index("lamp")
    dot = r.processor.convert_tokens_to_ids(".")
    same(found, bare(r, r.read(FACTS).inputs, Target.next_token(dot, position=at)))
    assert found.target == "next token after 'lamp': '.'"


@pytest.mark.parametrize("name", ["t5", "bart", "llava"])
def test_decoders_beside_an_encoder_and_behind_a_picture(reader, name):
    r = reader(name)
    picture = Image.new("RGB", (20, 28), (200, 30, 60))
    raw = (picture, "what is in the picture ?") if name == "llava" else "who has the key ?"
    found = r.explain(raw)
    assert int(found.receipt.explained) == r.explain_generation(raw, 1).ids[0]
    asked = r.explain(raw, target="cat", against="key")
    tokens = r.processor.tokenizer if name == "llava" else r.processor
    first = [tokens(w, add_special_tokens=False)["input_ids"][0] for w in ("cat", "key")]  # a new turn, a new text
    same(asked, bare(r, r.read(raw).inputs, Target.contrast(*first, -1)))


def test_chats_are_answered_without_a_space(reader):
    r = reader("llama")
    chat = [{"role": "user", "content": "who has the key ?"}]
    found = r.explain(chat, target="the")
    same(found, bare(r, r.read(chat).inputs, Target.next_token(r.processor.convert_tokens_to_ids("the"))))


# -- masks ------------------------------------------------------------------------------------------------------------


def test_a_mask_is_filled_in(reader):
    r = reader("mlm")
    text = "the cat is on the [MASK] ."
    found = r.explain(text)
    at = r.read(text).inputs["input_ids"][0].tolist().index(4)
    same(found, bare(r, r.read(text).inputs, Target.next_token(None, at)))
    assert found.target == "token at [MASK]: the predicted one"
    mat, cat = (WORDS.index(w) for w in ("mat", "cat"))
    named = r.explain(text, target="mat", against="cat")
    same(named, bare(r, r.read(text).inputs, Target.contrast(mat, cat, at)))
    assert named.target == "token at [MASK]: 'mat' rather than 'cat'"
    batch = r.explain([text, "the [MASK] sings"], target="cat")
    torch.testing.assert_close(
        batch.receipt.target_value[1:], r.explain("the [MASK] sings", target="cat").receipt.target_value
    )


def test_masks_that_are_none_or_many(reader):
    r = reader("mlm")
    with pytest.raises(Misuse, match="the text has none; say which token is asked for with token="):
        r.explain("the cat sings")
    with pytest.raises(Misuse, match="has 2 of them, tokens 2, 4"):
        r.explain("the [MASK] is [MASK]")
    second = r.explain("the [MASK] is [MASK]", target="mat", token=4)
    same(second, bare(r, r.read("the [MASK] is [MASK]").inputs, Target.next_token(WORDS.index("mat"), 4)))
    assert r.explain("the cat sings", token="cat").target == "token at 'cat': the predicted one"


@pytest.mark.parametrize(("eats", "word"), [(True, " key"), (False, "key")], ids=["its space is the mask's", "or not"])
def test_a_byte_level_mask_takes_the_word_as_it_would_be_cut(eats, word):
    made = tokenizer()
    made.add_special_tokens({"mask_token": T.AddedToken("<mask>", lstrip=eats)})
    config = T.RobertaConfig(**SMALL, vocab_size=len(made), max_position_embeddings=32, pad_token_id=1)
    r = regard.load(strong(T.RobertaForMaskedLM(config)), processor=made)
    found = r.explain("who has the <mask> ?", target="key")
    key = made(word, add_special_tokens=False)["input_ids"][0]
    at = r.read("who has the <mask> ?").inputs["input_ids"][0].tolist().index(made.mask_token_id)
    same(found, bare(r, r.read("who has the <mask> ?").inputs, Target.next_token(key, at)))


# -- tags -------------------------------------------------------------------------------------------------------------

SENTENCE = "anna smith sings in hamburg ."
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "LOC"]


def tagged(*tags: str, wanted=None):
    """The targets of a sentence that a model tags so (special tokens at both ends)."""
    cut = ["[CLS]", "anna", "smith", "sings", "in", "ham", "##burg", ".", "[SEP]"]
    spans, at = [(0, 0)], 0
    for piece in cut[1:-1]:
        at = SENTENCE.index(piece.removeprefix("##"), at)
        spans.append((at, at + len(piece.removeprefix("##"))))
    text = Text(SENTENCE, cut, [*spans, (0, 0)], [], [True, *[False] * 7, True])
    ask = TokenTargets(
        "tags", torch.nn.Module(), None, Reading({}, {"input_ids": [text]}), "input_ids", TAGS, TAGS.index
    )
    logits = torch.zeros(1, 9, len(TAGS))
    logits[0, torch.arange(9), torch.tensor([TAGS.index(t) for t in tags])] = 1
    return [t.label for t in ask.of(wanted).found(SimpleNamespace(logits=logits))]


def test_runs_of_tags_are_found():
    found = tagged("B-PER", "B-PER", "I-PER", "O", "O", "B-LOC", "LOC", "O", "O")
    assert found == ["logit of 'B-PER' at 'anna smith'", "logit of 'B-LOC' at 'hamburg'"]
    assert tagged("O", "B-PER", "B-PER", "O", "O", "LOC", "LOC", "O", "O") == [
        "logit of 'B-PER' at 'anna'",
        "logit of 'B-PER' at 'smith'",
        "logit of 'LOC' at 'hamburg'",
    ]
    assert tagged("O", "B-PER", "I-PER", "O", "O", "B-LOC", "O", "O", "O", wanted="B-LOC") == [
        "logit of 'B-LOC' at 'ham'"
    ]


def test_where_no_such_tag_is_found_the_nearest_is_explained_and_said(reader):
    r = reader("ner")
    logits = r.model(**r.read(SENTENCE).inputs).logits[0].detach()
    never = next(c for c in (1, 2, 3) if c not in logits[1:-1].argmax(-1))
    (found,) = r.explain(SENTENCE, target=r.labels[never])
    at = int((logits[1:-1, never] - logits[1:-1].max(-1).values).argmax()) + 1
    same(found, bare(r, r.read(SENTENCE).inputs, Target.logit(never, position=at)))
    assert any(f"finds no '{r.labels[never]}' in this text" in n for n in found.receipt.notes)


def test_every_word_that_is_tagged_is_explained(reader):
    r = reader("ner")
    found = r.explain(SENTENCE)
    tags = r.model(**r.read(SENTENCE).inputs).logits[0].argmax(-1).tolist()
    assert found
    for exp in found:
        name, word = re.fullmatch(r"logit of '(.*)' at '(.*)'", exp.target).groups()
        text = r.read(SENTENCE).raw["input_ids"][0]
        at = next(i for i, (a, b) in enumerate(text.offsets) if b > a and word.startswith(text.text[a:b]))
        assert r.labels[tags[at]] == name
        same(exp, bare(r, r.read(SENTENCE).inputs, Target.logit(tags[at], position=at)))
    assert len(r.explain(SENTENCE, method=["gae", "rollout"])) == 2 * len(found)


def test_a_word_or_a_token_says_which_tag(reader):
    r = reader("ner")
    found = r.explain(SENTENCE, target="B-LOC", token="hamburg", against="O")
    same(found, bare(r, r.read(SENTENCE).inputs, Target.contrast(3, 0, position=5)))
    assert found.target == "'B-LOC' rather than 'O' at 'hamburg'"
    assert r.explain(SENTENCE, token=-3).target == "logit of the predicted class at '##burg' (token 6)".replace(
        "##", ""
    )
    several = ["anna sings in berlin", "in berlin sings bob"]
    batch = r.explain(several, target="B-LOC", token="berlin")
    for i, text in enumerate(several):
        alone = r.explain(text, target="B-LOC", token="berlin")
        torch.testing.assert_close(batch.scores["input_ids"][i], alone.scores["input_ids"][0], rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="one by one, or pass token="):
        r.explain(several)
    with pytest.raises(UnknownName, match="did you mean 'B-LOC'"):
        r.explain(SENTENCE, target="LOC")


def test_where_every_token_has_a_class_one_is_named(reader):
    with pytest.raises(Misuse, match="say which token with token="):
        reader("pos").explain(SENTENCE)
    assert reader("pos").explain(SENTENCE, token="sings").target == "logit of the predicted class at 'sings'"


# -- answers ----------------------------------------------------------------------------------------------------------

QUESTION, PASSAGE = "where is the cat ?", "the cat is on the mat in berlin ."


def test_the_best_answer_is_explained(reader):
    r = reader("qa")
    inputs = r.read((QUESTION, PASSAGE)).inputs
    with torch.no_grad():
        out = r.model(**inputs)
    begin = inputs["input_ids"][0].tolist().index(3) + 1
    inside = range(begin, inputs["input_ids"].shape[1] - 1)
    sums = {(i, j): float(out.start_logits[0, i] + out.end_logits[0, j]) for i in inside for j in inside if i <= j}
    start, end = max(sums, key=sums.get)
    found = r.explain((QUESTION, PASSAGE))
    same(found, bare(r, inputs, Target.span(start, end)))
    words = PASSAGE.split()[start - begin : end - begin + 1]
    assert found.target == f"start and end of the answer {' '.join(words)!r}"
    both = r.explain([(QUESTION, PASSAGE), ("who sings ?", "anna sings .")])
    torch.testing.assert_close(both.receipt.target_value[:1], found.receipt.target_value)


def test_an_answer_is_named_by_its_words(reader):
    r = reader("qa")
    inputs = r.read((QUESTION, PASSAGE)).inputs
    begin = inputs["input_ids"][0].tolist().index(3) + 1
    found = r.explain((QUESTION, PASSAGE), target="the mat")
    same(found, bare(r, inputs, Target.span(begin + 4, begin + 5)))
    rather = r.explain((QUESTION, PASSAGE), target="the mat", against="berlin")
    out = r.model(**inputs)
    expected = out.start_logits[0, begin + 4] + out.end_logits[0, begin + 5]
    expected = expected - out.start_logits[0, begin + 7] - out.end_logits[0, begin + 7]
    torch.testing.assert_close(rather.receipt.target_value[0], expected.detach())
    assert rather.target == "start and end of the answer 'the mat' rather than 'berlin'"
    for wrong, says in (("where", "does not hold 'where'"), (3, "in its own words")):
        with pytest.raises(Misuse, match=says):
            r.explain((QUESTION, PASSAGE), target=wrong)
    with pytest.raises(InputError, match=r"give \(question, text\)"):
        r.explain(PASSAGE)


# -- classes told from one another, and who is not asked --------------------------------------------------------------


def test_classes_are_told_from_one_another_by_their_names():
    r = regard.load("zoo/bert-sentiment")
    text = "A quiet film of rare beauty."
    found = r.explain(text, target="positive", against="negative")
    pair = [r.label(n) for n in ("positive", "negative")]
    same(found, bare(r, r.read(text).inputs, Target.contrast(*pair)))
    assert found.target == "'positive' rather than 'negative'"
    with pytest.raises(Misuse, match="score every token"):
        r.explain(text, token="film")


def test_readers_inspect_and_record_words(reader):
    r = reader("zoo/llama-facts")
    assert "input_ids" in r.inspect(FACTS, "bob").readout
    assert r.record(FACTS, "bob").target.label == "next token: 'bob'"
    with pytest.raises(Misuse, match="say which token"):
        reader("ner").inspect(SENTENCE, "B-PER")


def test_names_are_kept_in_files(reader, tmp_path):
    found = reader("zoo/llama-facts").explain(FACTS)
    again = regard.Explanation.load(found.save(tmp_path / "e"))
    assert again.names == found.names != {}


# -- the command line -------------------------------------------------------------------------------------------------


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    if code:
        assert len(result.stderr.strip().splitlines()) == 1
        assert not re.search(r"Traceback|Target\.|position=|token=|target=", result.stderr)
    return " ".join((result.stderr if code else result.stdout).split())


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("zoo/llama-facts", [FACTS], "next token: the predicted one ('"),
        ("zoo/llama-facts", [FACTS, "--target", "bob", "--against", "anna"], "next token: 'bob' rather than 'anna'"),
        ("mlm", ["the cat is on the [MASK] .", "--target", "mat"], "token at [MASK]: 'mat'"),
        ("ner", [SENTENCE], "logit of '"),
        ("ner", [SENTENCE, "--target", "B-PER", "--token", "anna"], "logit of 'B-PER' at 'anna'"),
        ("qa", [PASSAGE, "--text", QUESTION], "start and end of the answer '"),
        ("qa", [PASSAGE, "--text", QUESTION, "--target", "the mat"], "start and end of the answer 'the mat'"),
    ],
)
def test_on_the_command_line(folder, monkeypatch, tmp_path, name, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in run("explain", *arguments, "-m", name if name.startswith("zoo") else folder(name))
    assert (tmp_path / "regard-out" / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("zoo/llama-facts", [FACTS, "--target", "giraffe"], "has no token for 'giraffe'"),
        ("zoo/llama-facts", [FACTS, "--generate", "1", "--target", "bob"], "unknown target 'bob' of --generate"),
        ("zoo/llama-facts", [FACTS, "--generate", "1", "--against", "bob"], "--generate takes no --against"),
        ("mlm", ["the cat sings"], "say which token is asked for with --token"),
        ("pos", [SENTENCE], "say which token with --token, a word or a number"),
        ("ner", [SENTENCE, "--token", "zebra"], "does not hold 'zebra'"),
        ("qa", [PASSAGE], "ask it with --text"),
        ("qa", [PASSAGE, "--text", QUESTION, "--target", "paris"], "does not hold 'paris'"),
        ("zoo/bert-sentiment", ["a fine film", "--token", "film"], "--token is for models"),
    ],
)
def test_misuse_on_the_command_line_is_said_in_its_own_words(folder, monkeypatch, tmp_path, name, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in run("explain", *arguments, "-m", name if name.startswith("zoo") else folder(name), code=2)


def test_words_are_compared(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    how = ["--methods", "taylor,gae", "--sites", "input", "-q"]
    run("compare", FACTS, "-m", "zoo/llama-facts", "--target", "bob", "--against", "anna", *how)
    run("compare", SENTENCE, "-m", folder("ner"), *how)
    assert (tmp_path / "regard-out" / "comparison.html").exists()


# -- guided by a contrast with a word -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "raw", "word", "where"),
    [
        ("zoo/llama-facts", FACTS, "lamp", {}),
        ("zoo/llama-facts", FACTS, "bob", {"token": 3}),
        ("mlm", "the cat [MASK] .", "cat", {}),
        ("ner", SENTENCE, "B-PER", {"token": "hamburg"}),
    ],
)
def test_a_guide_contrasts_with_a_word(reader, name, raw, word, where):
    """The guide is the map of the contrast of the explained word with the other one."""
    r, named = reader(name), f"contrast:{word}"
    found = r.explain(raw, guide=named, **where)
    c = r.explain(raw, **where).receipt.explained
    against = r.explain(raw, target=c.item(), against=word, method="gae", **where)
    same(found, r.explain(raw, guide=against, **where))
    assert word in found.receipt.notes[0]


def test_each_of_several_words_is_guided_by_its_own_contrast(reader):
    r = reader("zoo/llama-facts")
    both = r.explain(FACTS, target=["anna", "coin"], guide="contrast:bob")
    for word, found in zip(["anna", "coin"], both, strict=True):
        same(found, r.explain(FACTS, target=word, guide="contrast:bob"))


@pytest.mark.parametrize("target", ["bob", ["anna", "bob"]])
def test_a_word_has_no_contrast_with_itself(reader, target):
    with pytest.raises(Misuse, match=r"the guide contrasts .* with itself"):
        reader("zoo/llama-facts").explain(FACTS, target=target, guide="contrast:bob")


def test_a_guide_contrasts_with_another_answer(reader):
    r = reader("qa")
    found = r.explain((QUESTION, PASSAGE), target="berlin", guide="contrast:the mat")
    against = r.explain((QUESTION, PASSAGE), target="berlin", against="the mat", method="gae")
    same(found, r.explain((QUESTION, PASSAGE), target="berlin", guide=against))
