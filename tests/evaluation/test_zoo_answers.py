"""Answers hold what their card says: they are right, twins are false, each word has its region, accuracies are measured."""

import argparse
from collections import Counter
from pathlib import Path

import pytest
import torch

import regard
from regard import zoo
from regard.zoo.answer_data import Answers, read_answers
from regard.zoo.caption_data import quarters
from regard.zoo.fact_data import Draw
from training.makers import answers as telling
from training.makers.answers import Answer
from training.makers.crowds import CELLS, TINTS, make_crowd
from training.makers.questions import ITEMS, Sight
from training.makers.scenes import Items, load_items

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "fashion_mnist" / "test.npz"
PAIR = Sight((-1, 4, 6, -1), (-1, 4, 0, -1))
"""A blue sandal at the top right, a red bag at the bottom left."""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test here may reach the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def sights_of(count, seed):
    """Scenes of one to four items, some of them alike."""
    draw = Draw(seed)
    made = []
    for _ in range(count):
        here = set(draw.some(range(4), draw.between(1, 4)))
        classes, tints = (tuple(draw.below(4) if c in here else -1 for c in range(4)) for _ in range(2))
        made.append(Sight(classes, tints))
    return made


def seen(sight):
    """What is where, in words: place -> (colour, item)."""
    return {CELLS[c]: (TINTS[sight.tints[c]], ITEMS[sight.classes[c]]) for c in sight.full}


def parts_of(caption):
    """What a caption says is where, in its own order: [(place, (colour, item))]."""
    assert caption.endswith(" .")
    said = []
    for part in caption.removesuffix(" .").split(" , "):
        a, colour, item, at, the, *place = part.split()
        assert (a, at, the) == ("a", "at", "the")
        said.append((" ".join(place), (colour, item)))
    return said


def answered_by_hand(prompt, sight):
    """The right answer, worked out from the words, and the places of the items that it is about."""
    shown, words = seen(sight), prompt.split()
    if prompt == "describe the picture":
        said = " , ".join(f"a {colour} {item} at the {place}" for place, (colour, item) in shown.items())
        return f"{said} .", set(shown)
    if words[:3] == ["what", "is", "at"]:
        place = " ".join(words[4:6])
        return (f"a {' '.join(shown[place])} .", {place}) if place in shown else ("nothing .", set())
    if words[0] == "what":
        ((place, (colour, _)),) = [row for row in shown.items() if row[1][1] == words[4]]
        return f"{colour} .", {place}
    places = {place for place, pair in shown.items() if pair == (words[3], words[4])}
    if words[0] == "is":
        return ("yes ." if places else "no ."), places
    (place,) = places
    return f"{place} .", places


# --- the language ---------------------------------------------------------------------------------------------------


def test_answers_are_what_the_words_ask_for():
    kinds = Counter()
    for sight in sights_of(60, 0):
        for answer in telling.all_answers(sight, Draw(1)):
            text, places = answered_by_hand(answer.prompt, sight)
            assert answer.text == text, answer
            assert {CELLS[c] for c in answer.cells} == places, answer
            kinds[answer.kind] += 1
    assert set(kinds) == set(telling.KINDS)
    assert kinds["caption"] == 60


def test_the_words_of_answers():
    caption = "a blue sandal at the top right , a red bag at the bottom left ."
    assert telling.answers(PAIR, "caption", Draw(0)) == [Answer("caption", "describe the picture", caption, (1, 2))]
    assert telling.answers(PAIR, "what", Draw(0))[:2] == [
        Answer("what", "what is at the top left ?", "nothing .", ()),
        Answer("what", "what is at the top right ?", "a blue sandal .", (1,)),
    ]
    assert telling.answers(PAIR, "colour", Draw(0))[1] == Answer("colour", "what colour is the bag ?", "red .", (2,))
    assert telling.answers(PAIR, "where", Draw(0))[1] == Answer(
        "where", "where is the red bag ?", "bottom left .", (2,)
    )
    assert telling.answers(PAIR, "is", Draw(0))[0] == Answer("is", "is there a blue sandal ?", "yes .", (1,))
    twice = Sight((6, 6, -1, -1), (0, 0, -1, -1))
    assert [telling.ask(twice, kind, Draw(0)) for kind in ("colour", "where")] == [None, None]


def test_empty_quarters_and_absent_items_are_asked_for_now_and_then():
    draw, nothing, no = Draw(0), 0, 0
    for _ in range(400):
        nothing += telling.ask(PAIR, "what", draw).text == "nothing ."
        no += telling.ask(PAIR, "is", draw).text == "no ."
    assert 60 < nothing < 140
    assert 160 < no < 240
    near = Counter(telling.absent(PAIR, draw) for _ in range(300))
    assert not {(4, 4), (6, 0)} & set(near)
    assert near[4, 0] + near[6, 4] > 150  # a red sandal, a blue bag: both words are true of something


def test_the_vocabulary_has_every_word_and_captions_are_short():
    train = pytest.importorskip("training.vlm_scenes")
    told = [answer for sight in sights_of(60, 2) for answer in telling.all_answers(sight, Draw(3))]
    words = {word for answer in told for word in (*answer.prompt.split(), *answer.text.split())}
    assert words <= set(telling.VOCABULARY)
    assert max(len(answer.text.split()) for answer in told) < train.LONGEST
    assert len(set(telling.VOCABULARY)) == len(telling.VOCABULARY)


def test_twins_are_false_in_one_word():
    kinds = Counter()
    for sight in sights_of(60, 4):
        shown = seen(sight)
        true = telling.answers(sight, "caption", Draw(0))[0].text.split()
        for twin in telling.twins(sight, Draw(5)):
            words = twin.text.split()
            assert [i for i, (own, false) in enumerate(zip(true, words, strict=True)) if own != false] == [twin.word]
            assert any(shown.get(place) != pair for place, pair in parts_of(twin.text))
            if twin.kind != "place":
                assert not any(words[twin.word] in pair for pair in shown.values())
            kinds[twin.kind] += 1
    assert kinds["item"] == kinds["colour"] == 60
    assert kinds["place"] > 50  # not where all items are alike


def test_an_item_moves_to_an_empty_quarter_if_there_is_one():
    texts = {twin.text for seed in range(20) for twin in telling.place_twins(PAIR, Draw(seed))}
    assert len(texts) == 4
    for text in texts:
        assert {place for place, _ in parts_of(text)} & {"top left", "bottom right"}
    assert telling.place_twins(Sight((6,) * 4, (0,) * 4), Draw(0)) == []


# --- which item a word speaks of ------------------------------------------------------------------------------------


def known_of(sight, *kinds):
    """What there is to say of one scene, its items filling their quarters."""
    told = [answer for answer in telling.all_answers(sight, Draw(0)) if answer.kind in kinds]
    here = torch.tensor(sight.classes) >= 0
    return Answers(
        images=torch.zeros(1, 80, 80, 3, dtype=torch.uint8),
        masks=quarters(80, 80)[None] & here[None, :, None, None],
        items=torch.tensor([sight.classes]),
        colours=torch.tensor([sight.tints]),
        prompts=tuple(a.prompt for a in told),
        texts=tuple(a.text for a in told),
        kinds=tuple(a.kind for a in told),
        twins=((),) * len(told),
        scene=torch.zeros(len(told), dtype=torch.long),
        named=torch.tensor([[c in a.cells for c in range(4)] for a in told]),
        item_names=ITEMS,
        colour_names=TINTS,
    )


def marks(words):
    """The words that name something, with the quarter they speak of: + true of its item, ~ true of another, - of none."""
    return " ".join(
        f"{w.text}{w.cell if w.cell >= 0 else '?'}{'+' if w.true else '~' if w.there else '-'}"
        for w in words
        if w.kind != "other"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "blue1+ sandal1+ top1+ right1+ red2+ bag2+ bottom2+ left2+"),
        ("a red bag at the bottom left .", "red2+ bag2+ bottom2+ left2+"),  # the place says which, not the order
        ("a red sandal at the top right .", "red1~ sandal1+ top1+ right1+"),
        ("a green coat at the top right", "green1- coat1- top1+ right1+"),
        (  # nothing is at the top left: by order
            "a blue sandal at the top left , a red bag at the bottom left",
            "blue1+ sandal1+ top1+ left1~ red2+ bag2+ bottom2+ left2+",
        ),
        ("a blue sandal , a red bag , a red bag .", "blue1+ sandal1+ red2+ bag2+ red?~ bag?~"),
        (
            "a boot at the bottom right , a boot at the top left , a boot at the top left",
            "boot1- bottom1~ right1+ boot2- top2~ left2+ boot?- top?~ left?~",
        ),
        ("A red bag, at the bottom left.<eos>", "red1~ bag1~ bottom2+ left2+"),  # as the tokenizer cuts it
        (". , the a , red bag", "red1~ bag1~"),  # parts that say nothing are not counted
        ("", ""),
    ],
)
def test_the_words_of_a_caption(text, expected):
    known = known_of(PAIR, "caption")
    words = known.words(0, text)
    if text is None or text.islower():
        assert [w.text for w in words] == (known.texts[0] if text is None else text).split()
    assert marks(words) == expected
    for word in words:
        assert (word.region is None) == (word.cell < 0)
        assert word.region is None or torch.equal(word.region, known.masks[0, word.cell])
        if word.kind == "other":
            assert (word.true, word.there, word.cell) == (None, None, -1)


def test_the_words_of_answers_to_questions_speak_of_what_is_asked_for():
    known = known_of(PAIR, "what", "where", "colour", "is")
    row = {prompt: i for i, prompt in enumerate(known.prompts)}
    assert marks(known.words(row["what is at the bottom left ?"])) == "red2+ bag2+"
    assert marks(known.words(row["what is at the bottom left ?"], "a blue bag .")) == "blue2~ bag2+"
    assert marks(known.words(row["what is at the top left ?"])) == ""
    assert marks(known.words(row["what is at the top left ?"], "a red boot .")) == "red?~ boot?-"
    assert marks(known.words(row["where is the blue sandal ?"])) == "top1+ right1+"
    assert marks(known.words(row["where is the blue sandal ?"], "bottom left .")) == "bottom1~ left1~"
    assert marks(known.words(row["what colour is the sandal ?"], "green .")) == "green1-"
    assert [w.kind for w in known.words(row["is there a red bag ?"])] == ["other", "other"]


def test_a_place_that_no_item_has_is_not_there():
    words = known_of(Sight((0, 1, -1, -1), (0, 1, -1, -1)), "caption").words(0, "a red shirt at the bottom left")
    assert marks(words) == "red0+ shirt0+ bottom0- left0+"


# --- training -------------------------------------------------------------------------------------------------------


def fake_items(classes=8, each=3):
    """Solid blobs: full rectangles, so that masks are boxes."""
    images = torch.full((classes * each, 28, 28), 200, dtype=torch.uint8)
    return Items.of(images, torch.arange(classes).repeat(each), [f"class {k}" for k in range(classes)])


@pytest.fixture(scope="module")
def train():
    return pytest.importorskip("training.vlm_scenes")


@pytest.fixture(scope="module")
def untrained(train):
    torch.manual_seed(0)
    return train.build().eval()


@torch.no_grad()
def test_requests_side_by_side_are_read_as_each_alone_and_as_the_model_reads_them(train, untrained):
    """What stands in one row is what the model itself says of each request with its answer, one at a time."""
    images = make_crowd(fake_items(), 2, torch.Generator().manual_seed(0)).images
    asked = [[telling.ask(PAIR, kind, Draw(0)) for kind in kinds] for kinds in (("caption", "where", "is"), ("what",))]
    logits, wanted = train.step_logits(untrained, train.tower_states(untrained, images)[:, 1:], train.rows(asked))
    found = []
    for image, told in zip(images, asked, strict=True):
        for answer in told:
            prompt = train.PREFIX + train.token_ids(answer.prompt)
            text = [train.KNOWN[word] for word in (*answer.text.split(), "<eos>")]
            ids = torch.tensor([prompt + text[:-1]])
            out = untrained(input_ids=ids, pixel_values=train.pixels(image[None])).logits[0]
            found.append((out[len(prompt) - 1 :], text))
    torch.testing.assert_close(logits, torch.cat([out for out, _ in found]), rtol=1e-4, atol=1e-4)
    assert wanted.tolist() == [word for _, text in found for word in text]


@torch.no_grad()
def test_the_tower_begins_as_that_of_clip_scenes(train, untrained):
    clip = regard.load("zoo/clip-scenes").model
    images = make_crowd(fake_items(), 2, torch.Generator().manual_seed(0)).images
    states = clip.vision_model(pixel_values=train.pixels(images), output_hidden_states=True).hidden_states
    torch.testing.assert_close(train.tower_states(untrained, images), states[-1])


def test_each_scene_is_asked_for_a_caption_and_some_questions(train):
    made = train.requests([PAIR] * 5, 4, Draw(0))
    assert all({answer.kind for answer in told} == set(telling.KINDS) for told in made)
    made = train.requests([PAIR] * 40, 1, Draw(0))
    assert all(told[0].kind == "caption" and len(told) == 2 for told in made)
    assert {told[1].kind for told in made} == set(train.QUESTIONS)


@pytest.fixture(scope="module")
def options():
    return argparse.Namespace(seed=0, steps=2, scenes=4, each=2, rate=1e-3, tower=1e-4, keep=None)


def test_each_weight_has_one_rate_and_the_tower_waits(train, untrained, options):
    args = argparse.Namespace(**{**vars(options), "steps": 100})
    made, schedules = train.optimisers(list(untrained.named_parameters()), args)
    groups = [group for optimiser in made for group in optimiser.param_groups]
    weights = [id(p) for group in groups for p in group["params"]]
    assert len(weights) == len(set(weights)) == len(list(untrained.parameters()))
    assert [group["initial_lr"] for group in groups] == [args.rate, args.tower] * 2
    tower = {id(p) for p in untrained.model.vision_tower.parameters()}
    assert [{id(p) in tower for p in group["params"]} for group in groups] == [{False}, {True}] * 2
    for words, seen in (schedule.lr_lambdas for schedule in schedules):
        assert (words(4) > 0, seen(4)) == (True, 0)
        assert seen(50) > 0


def test_scores_of_captions_by_hand(train):
    known = known_of(PAIR, "caption")
    text = "a blue boot at the top right , a red bag at the bottom right , a green coat ."
    hits = train.caption_scores(known, [text])
    assert {name: [right for _, right in found] for name, found in hits.items()} == {
        "whole": [False],
        "item": [False, True],
        "colour": [True, True],
        "place": [True, False],  # nothing is at the bottom right: by order, the bag, and right is wrong
        "item_written": [False, True, False],
        "colour_written": [True, True, False],
        "place_written": [True, True, True, False],
    }
    assert {number for found in hits.values() for number, _ in found} == {2}
    silent = train.caption_scores(known, ["a blue sandal at the top right ."])
    assert [right for _, right in silent["item"]] == [True, False]


# --- zoo/vlm-scenes -------------------------------------------------------------------------------------------------


def picture(known, row):
    """The picture that a request is about."""
    from PIL import Image

    return Image.fromarray(known.images[known.scene[row]].numpy())


def test_the_script_trains_and_what_it_writes_is_read(train, options, tmp_path):
    model = train.train(fake_items(), options, torch.Generator().manual_seed(0))
    train.save(tmp_path, model)
    train.bundle(tmp_path, fake_items(), 2, torch.Generator().manual_seed(0), Draw(0))
    assert not model.training
    accuracy = train.bundled_accuracy(tmp_path, model)
    assert accuracy["bundled_scenes"] == 8
    known = read_answers(tmp_path)
    assert known.count.tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [len(twins) for twins, kind in zip(known.twins, known.kinds, strict=True) if kind == "caption"] == [3] * 8
    measured = train.measure(model, fake_items(), torch.Generator().manual_seed(0), Draw(0), scenes=2)
    card = train.card_of(model, measured | accuracy, "again", 1.0)
    assert set(card) >= set(zoo.cards()["zoo/vlm-scenes"])
    reader = regard.load(tmp_path)
    assert reader.kind == "image-text"
    prompt = known.prompts[0]
    said = reader.explain_generation((picture(known, 0), prompt), 40, "random").text.replace("<eos>", "")
    assert said.split() == train.written(model, known.images[known.scene[:1]], [prompt])[0].split()


@pytest.fixture(scope="module")
def vlm():
    return regard.load("zoo/vlm-scenes")


@pytest.fixture(scope="module")
def answers():
    return zoo.answers()


def test_bundled_scenes_show_one_to_four_different_items(answers):
    here = answers.items >= 0
    each = len(answers.images) // 4
    assert answers.count.tolist() == [number for number in range(1, 5) for _ in range(each)]
    assert torch.equal(here, answers.colours >= 0)
    assert torch.equal(here, answers.masks.flatten(2).any(2))
    assert answers.masks.sum(1).max() == 1
    for items, colours in zip(answers.items.tolist(), answers.colours.tolist(), strict=True):
        shown = [pair for pair in zip(items, colours, strict=True) if pair[0] >= 0]
        assert len(set(shown)) == len(shown)


def test_bundled_answers_are_right_and_about_their_items(answers):
    rows = zip(answers.items.tolist(), answers.colours.tolist(), strict=True)
    sights = [Sight(tuple(items), tuple(colours)) for items, colours in rows]
    regions = answers.regions()
    for row in range(len(answers)):
        text, places = answered_by_hand(answers.prompts[row], sights[answers.scene[row]])
        assert answers.texts[row] == text
        assert {CELLS[c] for c in answers.named[row].nonzero()[:, 0].tolist()} == places
        for word in answers.words(row):
            assert word.kind == "other" or (word.true and word.there)
            assert word.region is None or not (word.region & ~regions[row]).any()
    assert set(answers.kinds) == set(telling.KINDS)
    assert int(answers.of_kind("caption").sum()) == len(answers.images)
    few = answers.select(answers.scene >= 60)
    assert few.prompts == tuple(p for p, s in zip(answers.prompts, answers.scene.tolist(), strict=True) if s >= 60)
    assert few.words(0) != ()


def test_bundled_twins_have_one_false_word(answers):
    for row in range(len(answers)):
        true = answers.texts[row].split()
        assert len(answers.twins[row]) == (3 if answers.kinds[row] == "caption" else 0)
        for twin in answers.twins[row]:
            said = answers.words(row, twin.text)
            assert [i for i, (a, w) in enumerate(zip(true, said, strict=True)) if a != w.text] == [twin.word]
            assert said[twin.word].kind == twin.kind
            assert not all(word.true for word in said if word.kind != "other")
            assert twin.kind == "place" or (said[twin.word].true, said[twin.word].there) == (False, False)


def test_vlm_is_read_by_transformers_alone(answers):
    """From the folder, with the processor's own template, as any other LLaVA."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    home = zoo.folder("zoo/vlm-scenes")
    processor, model = AutoProcessor.from_pretrained(home), AutoModelForImageTextToText.from_pretrained(home)
    row = int(answers.of_kind("caption").nonzero()[-1])
    content = [{"type": "image"}, {"type": "text", "text": answers.prompts[row]}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=prompt, images=picture(answers, row), return_tensors="pt", add_special_tokens=False)
    assert inputs["input_ids"].shape[1] == 64 + 6
    shown = answers.images[answers.scene[row]].permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(inputs["pixel_values"][0], shown, rtol=0, atol=1e-5)
    out = model.generate(**inputs)
    said = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert len(parts_of(said)) == 4


def test_vlm_is_as_good_on_the_bundled_scenes_as_its_card_says(train, vlm, answers):
    card = zoo.cards()["zoo/vlm-scenes"]
    accuracy = card["accuracy"]
    assert sum(p.numel() for p in vlm.model.parameters()) == card["parameters"]
    few = answers.select(answers.of_kind("caption") | answers.of_kind("where"))
    found = train.scores(few, train.all_written(vlm.model, few))
    for name in ("whole", "item", "colour", "place", "item_written"):
        assert found[f"caption_{name}"] == pytest.approx(accuracy[f"bundled_caption_{name}"], abs=0.02), name
        assert accuracy[f"bundled_caption_{name}"] == pytest.approx(accuracy[f"caption_{name}"], abs=0.15), name
    assert found["question_right"]["where"] == pytest.approx(accuracy["bundled_question_right"]["where"], abs=0.02)


@pytest.mark.parametrize("method", ["gae", "token_activation_map"])
def test_a_written_caption_has_a_map_of_8_by_8_patches_for_each_word(vlm, answers, method):
    row = int(answers.of_kind("caption").nonzero()[20])
    g = vlm.explain_generation((picture(answers, row), answers.prompts[row]), 40, method)
    words = answers.words(row, g.text.removesuffix("<eos>"))
    assert [t for t in g.tokens[-len(g) :] if t != "<eos>"] == [w.text for w in words]
    assert len(parts_of(" ".join(w.text for w in words))) >= 1
    for found in g:
        assert found.scores["pixel_values"].shape == (1, 64)
        assert found.grid["pixel_values"] == (8, 8)
        assert found.on_original()[0].shape == (80, 80)
    assert bool(g.of("pixel_values")[1].any())


@pytest.mark.long
def test_vlm_on_fresh_scenes_of_unseen_items(train, vlm):
    if not SHARED.is_file():
        pytest.skip(f"needs {SHARED}: Fashion-MNIST is not part of the repository")
    gen, draw = torch.Generator().manual_seed(99), Draw(99)
    found = train.measure(vlm.model, load_items(SHARED), gen, draw, scenes=200)
    accuracy = zoo.cards()["zoo/vlm-scenes"]["accuracy"]
    for name in ("item", "colour", "place"):
        assert found[f"caption_{name}"] == pytest.approx(accuracy[f"caption_{name}"], abs=0.025), name
    assert found["question_right"] == pytest.approx(accuracy["question_right"], abs=0.05)
