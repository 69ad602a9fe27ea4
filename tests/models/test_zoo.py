"""The zoo holds what its cards say: models load offline, accuracies are the measured ones, masks are exact."""

import hashlib
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import regard
from regard import Target, zoo
from regard.errors import UnknownName
from regard.zoo import fact_data
from training.makers import scenes as maker

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test here may reach the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def vit():
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification.from_pretrained(zoo.folder("zoo/vit-scenes")).eval()


@pytest.fixture(scope="module")
def bert():
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    home = zoo.folder("zoo/bert-sentiment")
    return AutoModelForSequenceClassification.from_pretrained(home).eval(), AutoTokenizer.from_pretrained(home)


@pytest.fixture(scope="module")
def llama():
    return regard.load("zoo/llama-facts")


@torch.no_grad()
def see(vit, pictures):
    """Logits for raw pictures, through the folder's own processor."""
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(zoo.folder("zoo/vit-scenes"))
    pictures = [p if isinstance(p, Image.Image) else Image.fromarray(p.numpy()) for p in pictures]
    return vit(**processor(pictures, return_tensors="pt")).logits


@torch.no_grad()
def read(bert, texts):
    """Logits for raw sentences, through the folder's own tokenizer."""
    model, tokenizer = bert
    return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits


def fake_items(classes=6, each=5):
    """Random blobs of clothing: 28 px, zero ground, holes allowed."""
    gen = torch.Generator().manual_seed(7)
    images = torch.randint(1, 256, (classes * each, 28, 28), generator=gen)
    images[torch.rand(images.shape, generator=gen) < 0.2] = 0
    images[:, :4] = images[:, :, -3:] = 0
    labels = torch.arange(classes).repeat(each)
    return maker.Items.of(images.to(torch.uint8), labels, [f"class {k}" for k in range(classes)])


# --- the face -------------------------------------------------------------------------------------------------------


def test_import_is_light():
    heavy = ("transformers", "PIL", "matplotlib", "scipy")
    code = f"import sys, regard.zoo; print([m for m in {heavy} if m in sys.modules])"
    source = str(Path(zoo.__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONPATH": source}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert out.stdout.strip() == "[]"


def test_names_folders_and_the_error_for_an_unknown_name():
    assert zoo.names() == [
        "zoo/bert-sentiment",
        "zoo/clip-scenes",
        "zoo/detr-scenes",
        "zoo/llama-facts",
        "zoo/lxmert-scenes",
        "zoo/vit-scenes",
        "zoo/vlm-scenes",
    ]
    assert all((zoo.folder(name) / "config.json").is_file() for name in zoo.names())
    with pytest.raises(UnknownName, match="unknown zoo model 'zoo/vit-scene'; did you mean 'zoo/vit-scenes'"):
        zoo.folder("zoo/vit-scene")
    with pytest.raises(UnknownName, match="the bundled model is called 'zoo/vit-scenes'"):
        zoo.in_zoo("vit-scenes")


def test_cards_are_complete_and_small_enough_to_bundle():
    keys = {"name", "task", "parameters", "accuracy", "data", "license", "known_answers", "limits", "retrain"}
    for name, card in zoo.cards().items():
        assert card["name"] == name
        assert keys <= set(card)
        assert str(round(card["parameters"])) in (zoo.folder(name) / "README.md").read_text(encoding="utf-8")
    files = [f for name in zoo.names() for f in zoo.folder(name).iterdir()]
    assert max(f.stat().st_size for f in files) < 6e6
    assert sum(f.stat().st_size for f in files) < 32e6
    for name in ("zoo/lxmert-scenes", "zoo/detr-scenes"):
        assert (zoo.folder(name) / "model.safetensors").stat().st_size < 3e6
        assert sum(f.stat().st_size for f in zoo.folder(name).iterdir()) < 4e6
    assert sum(f.stat().st_size for f in zoo.folder("zoo/llama-facts").iterdir()) < 1.5e6


def test_parameter_counts_equal_the_cards(vit, bert, llama):
    cards = zoo.cards()
    assert sum(p.numel() for p in vit.parameters()) == cards["zoo/vit-scenes"]["parameters"]
    assert sum(p.numel() for p in bert[0].parameters()) == cards["zoo/bert-sentiment"]["parameters"]
    assert sum(p.numel() for p in llama.model.parameters()) == cards["zoo/llama-facts"]["parameters"]


# --- zoo/vit-scenes -------------------------------------------------------------------------------------------------


def test_bundled_scenes_are_balanced_and_their_masks_disjoint():
    scenes = zoo.scenes()
    kinds = len(scenes.names)
    alone, pairs = scenes.labels[scenes.single, 0], scenes.labels[~scenes.single].sort(1).values
    assert len(scenes) == 200
    assert scenes.images.shape == (200, 64, 64, 3)
    assert scenes.images.dtype == torch.uint8
    assert scenes.masks.shape == (200, 2, 64, 64)
    assert scenes.masks.dtype == torch.bool
    assert len(alone) == 144
    assert torch.bincount(alone, minlength=kinds).unique().tolist() == [144 // kinds]
    assert len(pairs) == 56
    assert bool((pairs[:, 0] < pairs[:, 1]).all())
    assert not (scenes.masks[:, 0] & scenes.masks[:, 1]).any()
    area = scenes.masks.flatten(2).sum(2)
    assert bool((area[:, 0] > 40).all())
    assert torch.equal(area[:, 1] > 40, ~scenes.single)


def test_vit_is_as_good_on_the_bundled_scenes_as_its_card_says(vit):
    scenes, accuracy = zoo.scenes(), zoo.cards()["zoo/vit-scenes"]["accuracy"]
    assert vit.config.id2label == dict(enumerate(scenes.names))
    logits = see(vit, scenes.images)
    right = (logits.argmax(1) == scenes.labels[:, 0])[scenes.single].float().mean().item()
    assert right == pytest.approx(accuracy["bundled_single_item"], abs=0.008)  # one of 144 may tip over by rounding
    assert right >= 0.85
    assert accuracy["single_item"] >= 0.85
    best = logits[~scenes.single].topk(2).indices.sort(1).values
    both = (best == scenes.labels[~scenes.single].sort(1).values).all(1).float().mean().item()
    assert both >= accuracy["two_item_top2_set"] - 0.2  # 56 scenes: three standard errors


def test_vit_looks_at_the_item_and_not_at_the_ground(vit):
    """Grey out the item's box and the class is lost; keep nothing but the item and it stays.

    The box and not the mask: a hole in the shape of the item still tells its class in 44 % of the scenes.
    """
    scenes = zoo.scenes()
    scenes = scenes.select(scenes.single)
    mask, grey = scenes.masks[:, 0], torch.tensor(77, dtype=torch.uint8)
    box = mask.any(1)[:, None, :] & mask.any(2)[:, :, None]
    gone = see(vit, torch.where(box[..., None], grey, scenes.images)).argmax(1) == scenes.labels[:, 0]
    kept = see(vit, torch.where(mask[..., None], scenes.images, grey)).argmax(1) == scenes.labels[:, 0]
    assert kept.float().mean() > 0.8
    assert gone.float().mean() < 0.3  # chance is 0.125; the box's shape still says something


def test_the_processor_leaves_a_scene_as_it_is_and_needs_no_torchvision():
    pytest.importorskip("transformers")
    from PIL import Image
    from transformers import AutoImageProcessor

    image = zoo.scenes().images[0]
    processor = AutoImageProcessor.from_pretrained(zoo.folder("zoo/vit-scenes"))
    seen = processor(Image.fromarray(image.numpy()), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(seen, image.permute(2, 0, 1).float() / 127.5 - 1, rtol=0, atol=1e-5)


def test_the_demo_picture_shows_what_the_card_says_with_a_margin(vit):
    from PIL import Image

    shows = zoo.cards()["zoo/vit-scenes"]["demo"]["shows"]
    picture = Image.open(zoo.demo_scene()).convert("RGB")
    share, order = see(vit, [picture])[0].softmax(0).sort(descending=True)
    assert picture.size == (256, 192)
    assert [vit.config.id2label[int(k)] for k in order[:2]] == shows
    assert share[:2].sum() > 0.7
    assert share[1] > 2 * share[2]


# --- the maker ------------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_scenes():
    items = fake_items()
    first, again, other = (
        maker.two_item(items, 6, maker.Recipe(), torch.Generator().manual_seed(s)) for s in (3, 3, 4)
    )
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.masks, again.masks)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


def test_masks_are_exactly_the_pixels_the_items_own():
    """Make the same scenes twice, the second time from items with other grey values: only mask pixels may change."""
    items = fake_items()
    brighter = maker.Items(
        torch.where(items.images > 0, 255 - items.images // 2, 0).to(torch.uint8),
        items.starts,
        items.counts,
        items.names,
    )
    recipe = maker.Recipe(fragments=0)
    first, second = (maker.two_item(i, 16, recipe, torch.Generator().manual_seed(5)) for i in (items, brighter))
    changed = (first.images != second.images).any(3)
    owned = first.masks.any(1)
    assert torch.equal(owned, second.masks.any(1))
    assert not changed[~owned].any()
    assert changed[owned].float().mean() > 0.99  # a value near 255 may round to itself
    assert not (first.masks[:, 0] & first.masks[:, 1]).any()


def test_a_mask_is_the_item_greater_than_zero():
    """At its own size and place an item's mask is item > 0 and its shades are the item, pixel for pixel."""
    item = fake_items().draw(torch.tensor([2, 4]), torch.Generator().manual_seed(0))
    box = torch.tensor([[3.0, 5.0, 28.0, 28.0], [20.0, 36.0, 28.0, 28.0]])
    window = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, -1.0]])
    shades, mask = maker.lift(item, box, window, (64, 64))
    assert torch.equal(mask[0, 3:31, 5:33], item[0] > 0)
    assert mask[0].sum() == (item[0] > 0).sum()
    assert torch.equal(mask[1, 20:48, 36:64], item[1].flip(1) > 0)
    assert mask[1].sum() == (item[1] > 0).sum()
    torch.testing.assert_close(shades[0, 3:31, 5:33], item[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(shades[1, 20:48, 36:64], item[1].flip(1), rtol=0, atol=1e-5)


def test_fragments_come_from_classes_that_are_not_in_the_scene():
    gen = torch.Generator().manual_seed(1)
    labels = maker.draw_labels(torch.rand(500, generator=gen) < 0.5, 6, gen)
    strangers = maker.absent(labels, 6, gen)
    assert strangers.shape == (500, 4)
    assert not (strangers[:, :, None] == labels[:, None, :]).any()
    assert bool((labels[:, 0] != labels[:, 1]).all())


def test_items_want_every_class():
    with pytest.raises(ValueError, match="every one of the 3 classes needs at least one item"):
        maker.Items.of(torch.zeros(2, 28, 28, dtype=torch.uint8), torch.tensor([0, 2]), ["a", "b", "c"])


@pytest.mark.parametrize("canvas", [(64, 64), (48, 96)])
def test_whole_items_stay_inside_the_canvas(canvas):
    """Solid items: each mask is a full rectangle of the size asked for."""
    solid = torch.full((6, 28, 28), 200, dtype=torch.uint8)
    items = maker.Items.of(solid, torch.arange(6), list("abcdef"))
    recipe = maker.Recipe(canvas=canvas, single=(0.5, 0.5), aspect=(1.0, 1.0))
    batch = maker.single_item(items, 32, recipe, torch.Generator().manual_seed(2))
    side = min(canvas) // 2
    assert batch.masks[:, 0].flatten(1).sum(1).tolist() == [side * side] * 32
    assert not batch.masks[:, 1].any()


def test_vit_on_fresh_scenes_of_unseen_items(vit):
    data = SHARED / "fashion_mnist" / "test.npz"
    if not data.is_file():
        pytest.skip(f"needs {data}: Fashion-MNIST is not part of the repository")
    batch = maker.single_item(maker.load_items(data), 400, maker.Recipe(), torch.Generator().manual_seed(99))
    right = (see(vit, batch.images).argmax(1) == batch.labels[:, 0]).float().mean().item()
    measured = zoo.cards()["zoo/vit-scenes"]["accuracy"]["single_item"]
    assert abs(right - measured) < 0.06  # 400 scenes: more than three standard errors


# --- zoo/bert-sentiment ---------------------------------------------------------------------------------------------


def test_the_sentences_are_balanced_and_contain_their_words():
    rows = zoo.sentences()
    assert len(rows) == 40
    assert sum(row.label == "positive" for row in rows) == 20
    assert len({row.text for row in rows}) == 40
    for row in rows:
        assert row.words
        assert all(re.search(rf"\b{word}\b", row.text) for word in row.words), row


def test_bert_is_as_good_on_the_bundled_sentences_as_its_card_says(bert):
    rows, accuracy = zoo.sentences(), zoo.cards()["zoo/bert-sentiment"]["accuracy"]
    logits = read(bert, [row.text for row in rows])
    said = [bert[0].config.id2label[int(k)] for k in logits.argmax(1)]
    right = sum(a == row.label for a, row in zip(said, rows, strict=True)) / len(rows)
    assert right == pytest.approx(accuracy["bundled"], abs=0.026)  # one sentence
    assert right >= 0.85
    assert accuracy["test"] >= 0.78


def test_bert_rests_on_the_marked_words(bert):
    """Mask the marked words and the margin shrinks more than when the same number of other words is masked."""
    tokenizer = bert[1]
    rows = zoo.sentences()

    def margin(texts):
        logits = read(bert, texts)
        sign = torch.tensor([1.0 if row.label == "positive" else -1.0 for row in rows])
        return sign * (logits[:, 1] - logits[:, 0])

    def masked(row, words):
        return re.sub(rf"\b({'|'.join(words)})\b", tokenizer.mask_token, row.text)

    others = [[w for w in re.findall(r"\w+", row.text) if w not in row.words][: len(row.words)] for row in rows]
    full = margin([row.text for row in rows])
    key = full - margin([masked(row, row.words) for row in rows])
    rest = full - margin([masked(row, other) for row, other in zip(rows, others, strict=True)])
    assert (key > rest).float().mean() >= 0.85


def test_the_tokenizer_gives_offsets_and_lower_case(bert):
    text = "It isn't DULL (naïve, perhaps)."
    encoded = bert[1](text, return_offsets_mapping=True)
    pieces = bert[1].convert_ids_to_tokens(encoded["input_ids"])
    spans = [text[a:b].lower() for a, b in encoded["offset_mapping"]][1:-1]
    assert pieces[0] == "[CLS]"
    assert pieces[-1] == "[SEP]"
    assert "dull" in pieces
    assert "".join(spans) == text.lower().replace(" ", "")


def test_treebank_text_becomes_plain_english():
    train = pytest.importorskip("training.bert_sentiment", reason="needs transformers")
    tree_text = "-LRB- He -RRB- does n't , `` wo n't '' and can not ; it 's comedy\\/drama ."
    assert train.plain(tree_text.split(" ")) == "(He) doesn't, \" won't \" and cannot; it's comedy/drama."
    found = list(train.phrases("(3 (2 (2 not) (1 bad)) (2 .))"))
    assert [(p.text, p.label, p.root) for p in found] == [
        ("not", 2, False),
        ("bad", 1, False),
        ("not bad", 2, False),
        (".", 2, False),
        ("not bad.", 3, True),
    ]


# --- zoo/llama-facts ------------------------------------------------------------------------------------------------


def statements(words):
    """The statements of a story, read anew from its words: [(who or what, of what, position of the first word)]."""
    found, start = [], 0
    for i, word in enumerate(words):
        if word == ".":
            found.append((words[start:i], start))
            start = i + 1
    return found


def read_prompt(prompt):
    """(answer, word position of its source, the pairs it follows from), worked out from the text alone."""
    words = prompt.split()
    if words[0] == "copy":
        items, shown = words[2 : words.index(";")], words[words.index(";") + 1 :]
        assert shown == items[: len(shown)]
        return items[len(shown)], 2 + len(shown), [(shown[-1], items[len(shown)])]
    told = statements(words)
    *_, asked = (question := words[told[-1][1] + len(told[-1][0]) + 1 : -1])
    if question[0] == "what":
        ((sentence, at),) = [(s, at) for s, at in told if s[0] == asked]
        return sentence[3], at + 3, [(sentence[0], sentence[3])]
    sentence, at = [(s, at) for s, at in told if s[3] == asked][-1]  # the last one: things are handed on in time
    person = 5 if sentence[1] == "gives" else 0
    return sentence[person], at + person, [(sentence[person], asked)]


def pairs_told(words):
    """All pairs of words that a training row's story joins."""
    if words[0] == "copy":
        items = words[2 : words.index(";")]
        return list(pairwise(items))
    found = []
    for s, _ in statements(words):
        if s[1] == "gives":
            found += [(s[0], s[3]), (s[5], s[3])]
        elif s[1] == "has":
            found.append((s[0], s[3]))
    return found


def test_the_prompts_are_the_same_everywhere():
    facts = zoo.facts()
    text = "\n".join(f"{f.prompt} {f.answer} {f.source} {f.distractor}" for f in facts)
    assert [f.kind for f in facts[:5]] == ["recall-what", "recall-who", "copy", "chain", "recall-what"]
    assert len({f.prompt for f in facts}) == len(facts) == 400
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "7b6081f174d0eaad"
    assert facts[:8] == zoo.facts(8)
    assert facts[:8] != zoo.facts(8, seed=2)


def test_the_source_is_where_the_text_says_and_the_answer_word_stands_nowhere_else():
    for f in zoo.facts():
        words = f.prompt.split()
        answer, source, pairs = read_prompt(f.prompt)
        assert (f.answer, f.source) == (answer, source + 1), f
        assert words.count(f.answer) == 1
        assert f.source in f.evidence
        assert f.distractor != f.answer
        assert f.distractor in words
        told = {words[i - 1] for i in f.evidence}
        assert all({a, b} <= told for a, b in pairs), f
        assert all(map(fact_data.held_out, pairs)), f


def test_an_earlier_owner_stands_in_the_way_in_every_chain():
    for f in [f for f in zoo.facts() if f.kind == "chain"]:
        words = f.prompt.split()
        asked = words[-2]
        owners = [s[5] for s, _ in statements(words) if s[3] == asked]
        assert len(owners) >= 2
        assert (owners[-1], owners[-2]) == (f.answer, f.distractor)


def test_no_training_row_joins_a_pair_that_prompts_ask_for():
    draw = fact_data.Draw(5)
    for kind in fact_data.KINDS:
        for _ in range(200):
            row, answers = fact_data.training_row(kind, draw, 64)
            assert len(row) <= 64
            assert (row[0], row[-1]) == ("<bos>", "<eos>")
            assert answers
            story = row[1:-1] if kind == "copy" else row[1 : min(row.index(w) for w in ("who", "what") if w in row)]
            assert pairs_told(story)
            assert not any(map(fact_data.held_out, pairs_told(story))), row


def test_the_tokenizer_makes_a_token_of_every_word(llama):
    facts = zoo.facts(40)
    texts = llama.read([f.prompt for f in facts]).raw["input_ids"]
    for f, text in zip(facts, texts, strict=True):
        real = [t for t in text.tokens if t != "<pad>"]
        assert real == ["<bos>", *f.prompt.split()]
        assert real[f.source] == f.answer
    wanted = "anna has the lamp . who has the lamp ?"
    said = llama.processor("Anna has the Lamp. Who has the lamp?")["input_ids"]
    assert llama.processor.convert_ids_to_tokens(said) == ["<bos>", *wanted.split()]
    assert llama.processor.decode(said, skip_special_tokens=True) == wanted


@contextmanager
def kept_hook(block, change):
    """Pass a block's output through ``change`` for a while."""
    handle = block.register_forward_hook(lambda module, given, out: change(out))
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def answers(llama, prompts):
    """The likeliest next word of each prompt."""
    logits = llama.model(**llama.read(prompts).inputs).logits[:, -1]
    return llama.processor.convert_ids_to_tokens(logits.argmax(-1))


def test_llama_is_as_good_on_the_bundled_prompts_as_its_card_says(llama):
    accuracy, facts = zoo.cards()["zoo/llama-facts"]["accuracy"], zoo.facts()
    said = answers(llama, [f.prompt for f in facts])
    for kind, measured in accuracy["bundled"].items():
        right = [a == f.answer for a, f in zip(said, facts, strict=True) if f.kind == kind]
        assert len(right) == 100
        assert sum(right) / 100 == pytest.approx(measured, abs=0.011)  # one of 100 may tip over by rounding
    assert min(accuracy["test"].values()) >= 0.98


def test_llama_answers_what_stands_at_the_source(llama):
    """Put another word there, and it is the answer; the old one is gone from the prompt."""
    draw = fact_data.Draw(11)
    changed = [fact_data.redirected(f, draw) for f in zoo.facts(200, seed=21)]
    assert all(f.answer == f.prompt.split()[f.source - 1] for f in changed)
    said = answers(llama, [f.prompt for f in changed])
    assert sum(a == f.answer for a, f in zip(said, changed, strict=True)) / 200 >= 0.95


@torch.no_grad()
@pytest.mark.parametrize(("at", "share"), [(0, 0.0), (3, 0.0), (4, 1.0)], ids=["source", "thing", "stop"])
def test_the_full_stop_carries_the_owner_where_the_thing_is_asked_for(llama, at, share):
    """The state after the first block, taken from a run with another owner, at one word of the statement."""
    block, followed = llama.model.model.layers[0], []
    facts = [f for f in zoo.facts() if f.kind == "recall-who"][:20]
    for f in facts:
        other, place = fact_data.redirected(f, fact_data.Draw(3)), f.source + at
        kept = []
        with kept_hook(block, lambda state, kept=kept: kept.append(state.clone()) or state):
            answers(llama, [other.prompt])

        def put(state, kept=kept, place=place):
            state = state.clone()
            state[:, place] = kept[0][:, place]
            return state

        with kept_hook(block, put):
            followed.append(answers(llama, [f.prompt]) == [other.answer])
    assert sum(followed) / len(followed) == share


@torch.no_grad()
def test_llama_writes_the_language_on(llama):
    def on(prompt):
        inputs = llama.processor(prompt, return_tensors="pt", return_token_type_ids=False)
        out = llama.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        return llama.processor.convert_ids_to_tokens(out[0, inputs["input_ids"].shape[1] :])

    assert on("copy : red mint coral gold teal ; red mint") == ["coral", "gold", "teal", "<eos>"]
    assert on("anna has the lamp . bob has the coin . carl has the map . who has the coin ?")[0] == "bob"


def test_gae_finds_the_source_and_chance_does_not(llama):
    """60 prompts, the right answer's logit, all tokens competing: benchmarks/facts.py says what the shares are."""
    facts = zoo.facts(60)
    reading = llama.read([f.prompt for f in facts])
    padding = (reading.inputs["attention_mask"] == 0).sum(1)
    source = torch.tensor([f.source for f in facts]) + padding
    wanted = torch.tensor(llama.processor.convert_tokens_to_ids([f.answer for f in facts]))
    maps = regard.explain(llama.model, reading.inputs, Target.next_token(wanted), method=["gae", "random"])
    gae, chance = (
        (m.scores["input_ids"].masked_fill(reading.inputs["attention_mask"] == 0, -torch.inf).argmax(1) == source)
        for m in maps
    )
    what = torch.tensor([f.kind == "recall-what" for f in facts])
    assert gae.float().mean() >= 0.55
    assert gae[what].float().mean() >= 0.8
    assert chance.float().mean() <= 0.15
