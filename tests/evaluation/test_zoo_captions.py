"""Captions hold what their card says: they are true, their twins are false, regions are exact, accuracies are measured."""

import argparse
import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

import regard
from regard import zoo
from regard.zoo.caption_data import read_captions
from regard.zoo.fact_data import Draw
from training.makers import captions as telling
from training.makers.captions import Caption, Mention
from training.makers.crowds import CELLS, TINTS, make_crowd
from training.makers.questions import ITEMS, Sight
from training.makers.scenes import Items, load_items

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "fashion_mnist" / "test.npz"


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


# --- the language ---------------------------------------------------------------------------------------------------

WORDS = rf"a (?:({'|'.join(TINTS)}) )?(item|{'|'.join(ITEMS)})(?: (?:on|at) the (top|bottom)? ?(left|right)?)?"


def seen_by_hand(text, sight):
    """Whether a caption's words are true of a scene: every way to give its mentions to different items is tried."""
    found = list(re.finditer(WORDS + r"(?= |$)", text))
    relation = re.search(r"left of|right of|above|below", text)
    for cells in itertools.permutations(sight.full, len(found)):
        fit = True
        for mention, cell in zip(found, cells, strict=True):
            tint, item, row, column = mention.groups()
            fit &= tint in (None, TINTS[sight.tints[cell]])
            fit &= item in ("item", ITEMS[sight.classes[cell]])
            fit &= row is None or row in CELLS[cell]
            fit &= column is None or (" of" in text and row is None and " on " not in text) or column in CELLS[cell]
        if relation is not None:
            (y, x), (v, u) = (divmod(cell, 2) for cell in cells)
            fit &= {"left of": x < u, "right of": x > u, "above": y < v, "below": y > v}[relation.group()]
        if fit:
            return True
    return False


def captions_of(sights, seed, each=3):
    draw = Draw(seed)
    made = [(s, telling.describe(sight, kind, draw)) for s, sight in enumerate(sights) for kind in telling.KINDS * each]
    return made, [telling.twisted(caption, sights[s], draw) for s, caption in made]


def test_captions_are_true_and_truth_is_what_the_words_say():
    sights = sights_of(24, 0)
    made, twisted = captions_of(sights, 1)
    said = [caption for _, caption in made] + twisted
    true = telling.truths(sights, said)
    assert bool(true[[s for s, _ in made], torch.arange(len(made))].all())
    for scene, column in itertools.product(range(0, 24, 5), range(0, len(said), 3)):
        assert bool(true[scene, column]) == seen_by_hand(said[column].text, sights[scene]), said[column].text


def test_truth_by_hand():
    sight = Sight((6, 4, -1, 6), (0, 4, -1, 0))  # a red bag, a blue sandal beside it, a red bag below that
    bag, red, sandal = Mention(6), Mention(6, 0), Mention(4, 4)
    expected = {
        Caption((bag, red)): True,
        Caption((red, red, red)): False,  # three bags
        Caption((Mention(4, 0),)): False,  # red is not the sandal
        Caption((Mention(tint=4),)): True,
        Caption((Mention(-1, -1, 1, 0),)): False,  # nothing is at the bottom left
        Caption((red, sandal), 0): True,
        Caption((sandal, red), 0): False,
        Caption((sandal, red), 2): True,  # above
        Caption((red, red), 2): True,
        Caption((sandal, Mention(6, -1, 1, 1)), 1): False,  # the bag at the bottom right is in the same half
    }
    assert telling.truths([sight], list(expected))[0].tolist() == list(expected.values())


def test_the_vocabulary_has_every_word_and_captions_are_short():
    train = pytest.importorskip("training.clip_scenes")
    made, twisted = captions_of(sights_of(60, 2), 3)
    texts = [caption.text for caption in [*(c for _, c in made), *twisted]]
    assert {word for text in texts for word in text.split()} <= set(telling.VOCABULARY)
    assert max(len(text.split()) for text in texts) + 2 <= train.LENGTH
    kinds = Counter(len(caption.mentions) for _, caption in made)
    assert set(kinds) == {1, 2, 3, 4}


def test_the_words_of_captions():
    red, left = Mention(6, 0), Mention(4, -1, -1, 0)
    corner = Mention(3, 2, 1, 1)
    assert Caption((red,)).text == "a red bag"
    assert Caption((Mention(tint=0),)).text == "a red item"
    assert Caption((red, left)).text == "a red bag and a sandal on the left"
    assert Caption((red, left, corner)).text == "a red bag , a sandal on the left and a green coat at the bottom right"
    assert Caption((red, Mention(4)), 3).text == "a red bag below a sandal"


def test_twisted_captions_differ_in_one_thing():
    made, twisted = captions_of(sights_of(40, 4), 5)
    for (_, caption), other in zip(made, twisted, strict=True):
        assert other != caption
        assert len(other.mentions) == len(caption.mentions)
        changed = sum(a != b for a, b in zip(caption.mentions, other.mentions, strict=True))
        swap = telling.swappable(caption) and other == telling.swapped(caption)
        assert swap or changed + (other.relation != caption.relation) == 1
        if swap:
            assert telling.swapped(other) == caption


def without(sight, cell):
    """The scene with one cell emptied."""
    return Sight(*(tuple(-1 if c == cell else v for c, v in enumerate(of)) for of in (sight.classes, sight.tints)))


def test_a_caption_with_a_twin_rests_on_its_items_alone():
    """Take away one of them, and it is no longer true; take away any other, and it is. The twin is false before."""
    train = pytest.importorskip("training.clip_scenes")
    crowd = make_crowd(fake_items(), 60, torch.Generator().manual_seed(0), fewest=1)
    seen = train.sights(crowd.select(train.worth_showing(crowd)))
    kinds = set()
    for sight in seen:
        for both in telling.twins(sight, Draw(0)):
            emptied = [without(sight, cell) for cell in sight.full]
            true = telling.truths([sight, *emptied], [both.caption, both.twin])
            assert true[0].tolist() == [True, False]
            assert true[1:, 0].tolist() == [cell not in both.cells for cell in sight.full]
            kinds.add(both.kind)
    assert kinds == set(telling.TWIN_KINDS)


# --- training -------------------------------------------------------------------------------------------------------


def fake_items(classes=8, each=3):
    """Solid blobs: full rectangles, so that masks are boxes."""
    images = torch.full((classes * each, 28, 28), 200, dtype=torch.uint8)
    return Items.of(images, torch.arange(classes).repeat(each), [f"class {k}" for k in range(classes)])


def test_scenes_of_one_item_upwards():
    crowd = make_crowd(fake_items(), 80, torch.Generator().manual_seed(0), fewest=1)
    assert set((crowd.classes >= 0).sum(1).tolist()) == {1, 2, 3, 4}
    crowd = make_crowd(fake_items(), 8, torch.Generator().manual_seed(0), fewest=3, most=3)
    assert (crowd.classes >= 0).sum(1).tolist() == [3] * 8


def test_the_loss_is_that_of_a_loop():
    train = pytest.importorskip("training.clip_scenes")
    gen = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, generator=gen, dtype=torch.float64)
    true = torch.rand(3, 5, generator=gen) < 0.3
    scene, caption = torch.tensor([0, 1, 2, 2]), torch.tensor([4, 1, 0, 3])
    true[scene, caption] = True
    total = 0.0
    for i, j in zip(scene.tolist(), caption.tolist(), strict=True):
        own = float(logits[i, j].exp())
        texts = own + sum(float(logits[i, k].exp()) for k in range(5) if not true[i, k])
        scenes = own + sum(float(logits[k, j].exp()) for k in range(3) if not true[k, j])
        total -= float(torch.tensor([own / texts, own / scenes], dtype=torch.float64).log().sum())
    told = train.Told([""] * 5, scene, caption, true)
    assert float(train.contrast(logits, told)) == pytest.approx(total / 8)


def test_heads_are_taught_what_is_there():
    """Logits that say it make the loss the entropy of the shares of pixels; none is lower."""
    train = pytest.importorskip("training.clip_scenes")
    crowd = make_crowd(fake_items(), 3, torch.Generator().manual_seed(0), fewest=1)
    heads, numbers = train.Heads(4), {"coloured": 6, "placed": 4}
    entropy = 0.0
    for name, number in numbers.items():
        shares, there = torch.zeros(3, 64, 8 * number + 1), torch.zeros(3, 8 * number)
        for scene, cell in (crowd.classes >= 0).nonzero().tolist():
            second = int(crowd.tints[scene, cell]) if name == "coloured" else cell
            kind = int(crowd.classes[scene, cell]) * number + second
            shares[scene, :, kind] += crowd.masks[scene, cell].view(8, 10, 8, 10).float().mean((1, 3)).flatten()
            there[scene, kind] = 1
        shares[..., -1] = 1 - shares.sum(2)
        entropy += float(torch.special.entr(shares).sum(2).mean())
        heads.patch[name].forward = lambda _, said=shares: said.clamp(min=1e-9).log()
        heads.scene[name].forward = lambda _, said=there: 40 * said - 20
    assert float(heads(torch.zeros(3, 64, 4), torch.zeros(3, 4), crowd)) == pytest.approx(entropy, rel=1e-5)


def test_every_second_batch_of_scenes_is_fresh():
    train = pytest.importorskip("training.clip_scenes")
    pool = train.Pool(fake_items(), 1, torch.Generator(), Draw(0))
    made = iter(range(1000))
    pool.fresh = lambda: next(made)
    seen = [pool.next() for _ in range(400)]
    assert next(made) == (400 + train.POOL) // 2
    assert max(Counter(seen[train.POOL :]).values()) < 16


def test_parts_of_texts_come_back_in_order_and_padding_changes_nothing():
    train = pytest.importorskip("training.clip_scenes")
    torch.manual_seed(0)
    model = train.build().eval()
    texts = ["a red bag left of a blue coat", "a bag", "a red bag", "a coat on the left", "a red item and a bag"]
    with torch.no_grad():
        alone = torch.cat([train.text_vectors(model, [text]) for text in texts])
        torch.testing.assert_close(train.text_vectors(model, texts, parts=2), alone)


def test_the_script_trains_and_what_it_writes_is_read(tmp_path):
    train = pytest.importorskip("training.clip_scenes")
    args = argparse.Namespace(seed=0, steps=2, scenes=4, each=2, rate=1e-3, keep=None)
    model = train.train(fake_items(), args, torch.Generator().manual_seed(0))
    train.save(tmp_path, model)
    train.bundle(tmp_path, fake_items(), 2, torch.Generator().manual_seed(0), Draw(0))
    assert not model.training
    accuracy = train.bundled_accuracy(tmp_path, model)
    assert accuracy["bundled_scenes"] == 8
    assert read_captions(tmp_path).count.tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert regard.load(tmp_path).kind == "image-text"
    measured = train.measure(model, fake_items(), torch.Generator().manual_seed(0), Draw(0), scenes=200)
    card = train.card_of(model, measured | accuracy, "again", 1.0)
    assert set(card) >= set(zoo.cards()["zoo/clip-scenes"])


# --- zoo/clip-scenes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip():
    return regard.load("zoo/clip-scenes")


@pytest.fixture(scope="module")
def captions():
    return zoo.captions()


@torch.no_grad()
def likeness(clip, images, texts):
    """Cosines (pictures, texts), through the folder's own processor."""
    from PIL import Image

    pictures = [Image.fromarray(image.numpy()) for image in images]
    out = clip.model(**clip.processor(text=list(texts), images=pictures, padding=True, return_tensors="pt"))
    return out.image_embeds @ out.text_embeds.T


def test_bundled_scenes_show_one_to_four_different_items(captions):
    here = captions.items >= 0
    assert captions.images.shape == (80, 80, 80, 3)
    assert captions.count.tolist() == [number for number in range(1, 5) for _ in range(20)]
    assert torch.equal(here, captions.colours >= 0)
    assert torch.equal(here, captions.masks.flatten(2).any(2))
    assert captions.masks.sum(1).max() == 1
    for items, colours in zip(captions.items.tolist(), captions.colours.tolist(), strict=True):
        shown = [pair for pair in zip(items, colours, strict=True) if pair[0] >= 0]
        assert len(set(shown)) == len(shown)
    assert captions.prompts[6] == "a bag"


def test_bundled_captions_are_true_of_the_items_they_name_alone(captions):
    """By the words: true of the scene, false without one of the items; the twin is false."""
    rows = zip(captions.items.tolist(), captions.colours.tolist(), strict=True)
    sights = [Sight(tuple(items), tuple(colours)) for items, colours in rows]
    for row in range(0, len(captions), 3):
        sight = sights[captions.scene[row]]
        assert seen_by_hand(captions.texts[row], sight)
        assert not seen_by_hand(captions.twins[row], sight)
        for cell in sight.full:
            rests = not seen_by_hand(captions.texts[row], without(sight, cell))
            assert rests == bool(captions.named[row, cell])
    assert set(captions.kinds) == set(telling.TWIN_KINDS)


def test_regions_are_the_pixels_of_the_named_items(captions):
    regions = captions.regions()
    for row in range(0, len(captions), 50):
        named = captions.named[row].nonzero()[:, 0].tolist()
        by_hand = torch.stack([captions.masks[captions.scene[row], cell] for cell in named]).any(0)
        assert torch.equal(regions[row], by_hand)


def test_redirections_are_pairs_about_different_items(captions):
    few = captions.select(captions.scene >= 60)
    assert len(few) < len(captions)
    expected = [
        [i, j]
        for i, j in itertools.combinations(range(len(few)), 2)
        if few.scene[i] == few.scene[j]
        and few.kinds[i] == few.kinds[j]
        and few.named[i].sum() == few.named[j].sum() == 1
        and not (few.named[i] & few.named[j]).any()
    ]
    assert few.redirections().tolist() == expected


def test_clip_reads_a_caption_at_its_end(clip):
    """The text's vector is that of the end token: padding changes nothing, and the end token is none of the old default."""
    config = clip.model.config.text_config
    assert config.eos_token_id == clip.processor.tokenizer.eos_token_id not in (2, config.pad_token_id)
    alone, padded = (
        clip.processor.tokenizer(texts, padding=True, return_tensors="pt")
        for texts in (["a red bag"], ["a red bag", "a red sandal left of a blue bag"])
    )
    with torch.no_grad():
        first, second = (clip.model.get_text_features(**text).pooler_output for text in (alone, padded))
    torch.testing.assert_close(first[0], second[0], rtol=1e-4, atol=1e-4)


def test_clip_is_as_good_on_the_bundled_scenes_as_its_card_says(clip, captions):
    card = zoo.cards()["zoo/clip-scenes"]
    accuracy = card["accuracy"]
    assert sum(p.numel() for p in clip.model.parameters()) == card["parameters"]
    best = likeness(clip, captions.images, captions.prompts).argmax(1)
    right = (captions.items == best[:, None]).any(1).float()
    by_number = {str(n): float(right[captions.count == n].mean()) for n in range(1, 5)}
    assert by_number == pytest.approx(accuracy["bundled_item_by_number_of_items"], abs=0.051)  # one of 20 may tip over
    known = sorted({*captions.texts, *captions.twins})
    like = likeness(clip, captions.images, known)
    true, false = (like[captions.scene, [known.index(t) for t in said]] for said in (captions.texts, captions.twins))
    for kind, share in accuracy["bundled_above_twin"].items():
        of = captions.of_kind(kind)
        assert int(of.sum()) == accuracy["bundled_captions"][kind]
        assert float((true > false)[of].float().mean()) == pytest.approx(share, abs=0.011), kind
        assert share == pytest.approx(accuracy["above_twin"][kind], abs=0.15), kind  # lists are few
    assert accuracy["item"] >= 0.85
    assert accuracy["colours_of_a_pair"] >= 0.85


@pytest.mark.parametrize("method", ["grad_eclip", "gae"])
def test_maps_of_captions_lie_on_the_items_that_they_are_about(clip, captions, method):
    """Of what lies on items, most lies on the one that the caption is about, though it is about a third of their pixels."""
    several = captions.count[captions.scene] >= 2
    rows = (captions.of_kind("colour") & several).nonzero()[::12, 0].tolist()
    shares, areas = [], []
    for row in rows:
        region, items = captions.regions()[row], captions.masks[captions.scene[row]].any(0)
        exp = clip.explain((captions.images[captions.scene[row]], captions.texts[row]), method=method)
        heat = exp.image_map(size=(80, 80))[0].clamp(min=0)
        shares.append(float(heat[region].sum() / heat[items].sum()))
        areas.append(float(region.sum() / items.sum()))
    assert sum(shares) / len(rows) > sum(areas) / len(rows) + 0.3


@pytest.mark.long
def test_clip_on_fresh_scenes_of_unseen_items(clip):
    if not SHARED.is_file():
        pytest.skip(f"needs {SHARED}: Fashion-MNIST is not part of the repository")
    train = pytest.importorskip("training.clip_scenes")
    scores = train.measure(clip.model, load_items(SHARED), torch.Generator().manual_seed(99), Draw(99), scenes=1000)
    accuracy = zoo.cards()["zoo/clip-scenes"]["accuracy"]
    assert scores["item"] == pytest.approx(accuracy["item"], abs=0.015)
    assert scores["above_twin"] == pytest.approx(accuracy["above_twin"], abs=0.03)
