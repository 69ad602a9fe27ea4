"""Questions and detections hold what their cards say: scenes are exact, evidence is right, accuracies are measured."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from regard import zoo
from regard.evaluation.protocols.box_matching import Boxes, mean_average_precision
from regard.zoo.fact_data import Draw
from training.makers import crowds
from training.makers import questions as asking
from training.makers.scenes import Items, load_items

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "fashion_mnist" / "test.npz"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test here may reach the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def lxmert():
    from transformers import AutoTokenizer, LxmertForQuestionAnswering

    home = zoo.folder("zoo/lxmert-scenes")
    return LxmertForQuestionAnswering.from_pretrained(home).eval(), AutoTokenizer.from_pretrained(home)


@pytest.fixture(scope="module")
def detr():
    from transformers import AutoModelForObjectDetection

    return AutoModelForObjectDetection.from_pretrained(zoo.folder("zoo/detr-scenes")).eval()


@pytest.fixture(scope="module")
def questions():
    return zoo.questions()


@torch.no_grad()
def say(lxmert, texts, **regions):
    """The likeliest answer to each text."""
    model, tokenizer = lxmert
    words = tokenizer(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False)
    best = model(**words, **regions).question_answering_score.argmax(1)
    return [model.config.id2label[int(k)] for k in best]


def share(said, answers):
    return sum(a == b for a, b in zip(said, answers, strict=True)) / len(answers)


def fake_items(classes=8, each=3):
    """Solid blobs: full rectangles, so that masks are boxes."""
    images = torch.full((classes * each, 28, 28), 200, dtype=torch.uint8)
    return Items.of(images, torch.arange(classes).repeat(each), [f"class {k}" for k in range(classes)])


# --- crowds ---------------------------------------------------------------------------------------------------------


def crowd_of(count, seed):
    return crowds.make_crowd(fake_items(), count, torch.Generator().manual_seed(seed))


def test_the_same_seed_makes_the_same_crowd():
    first, again, other = crowd_of(4, 3), crowd_of(4, 3), crowd_of(4, 4)
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(first).items())
    assert not torch.equal(first.images, other.images)


def test_a_crowd_has_two_to_four_whole_items_each_in_its_quarter():
    crowd = crowd_of(200, 0)
    here = crowd.classes >= 0
    assert set(here.sum(1).tolist()) == {2, 3, 4}
    assert torch.equal(here, crowd.tints >= 0)
    assert torch.equal(here, crowd.masks.flatten(2).any(2))
    for cell, (y, x) in enumerate([(0, 0), (0, 40), (40, 0), (40, 40)]):
        outside = crowd.masks[:, cell].clone()
        outside[:, y : y + 40, x : x + 40] = False
        assert not outside.any()
    area = (crowd.boxes[..., 2:] - crowd.boxes[..., :2]).prod(-1)
    assert torch.equal(area.long(), crowd.masks.flatten(2).sum(2))  # solid items: the mask fills its tight box


def test_tight_boxes_by_hand():
    mask = torch.zeros(2, 6, 8, dtype=torch.bool)
    mask[0, 2, 3] = mask[0, 4, 7] = True
    assert crowds.tight_boxes(mask).tolist() == [[3, 2, 8, 5], [0, 0, 0, 0]]


def test_pixels_in_boxes_are_counted():
    taken = torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    boxes = torch.tensor([[[0, 0, 7, 9], [2, 3, 5, 8]]]).expand(3, 2, 4)
    counted = [[int(t[y0:y1, x0:x1].sum()) for x0, y0, x1, y1 in b.tolist()] for t, b in zip(taken, boxes, strict=True)]
    assert crowds.covered(taken, boxes).tolist() == counted


def test_fragments_are_of_classes_that_the_scene_does_not_show():
    crowd = crowd_of(200, 1)
    assert not (crowd.strangers[:, :, None] == crowd.classes[:, None, :]).any()
    assert bool((crowd.strangers[:, 0] != crowd.strangers[:, 1]).all())


def test_regions_hold_every_item_once_and_six_to_four_clutter_boxes():
    crowd = crowd_of(100, 2)
    regions = crowds.regions(crowd, torch.Generator().manual_seed(0))
    assert regions.boxes.shape == (100, 8, 4)
    for scene in range(100):
        cells = [c for c in regions.cells[scene].tolist() if c >= 0]
        assert sorted(cells) == (crowd.classes[scene] >= 0).nonzero()[:, 0].tolist()
        for region, cell in enumerate(regions.cells[scene].tolist()):
            if cell >= 0:
                assert regions.classes[scene, region] == crowd.classes[scene, cell]
                assert torch.allclose(regions.boxes[scene, region] * 80, crowd.boxes[scene, cell])


# --- the language ---------------------------------------------------------------------------------------------------

CLASS = {word: k for k, word in enumerate(asking.ITEMS)}
CLASSES = {word: k for k, word in enumerate(asking.MANY)}
TINT = {word: k for k, word in enumerate(crowds.TINTS)}
NUMBER = ("none", *asking.NUMBERS)


def read_question(text, things):
    """(answer, evidence, source), worked out anew from the text and the scene's (class, tint, right?, bottom?) by region."""
    words = text.split()

    def where(test):
        return [i for i, thing in things.items() if test(*thing)]

    def named(word):
        (found,) = where(lambda k, t, x, y: k == CLASS[word])
        return found

    def name(i):
        return asking.ITEMS[things[i][0]]

    match words:
        case ["what", "is", "the", tint, "item", "?"]:
            (i,) = where(lambda k, t, x, y: t == TINT[tint])
            return name(i), {i}, {i}
        case ["what", "is", "at", "the", height, side, "?"]:
            (i,) = where(lambda k, t, x, y: x == (side == "right") and y == (height == "bottom"))
            return name(i), {i}, {i}
        case ["what", "colour", "is", "the", item, "?"]:
            i = named(item)
            return crowds.TINTS[things[i][1]], {i}, {i}
        case ["on", "which", "side", "is", "the", item, "?"]:
            i = named(item)
            return ("right" if things[i][2] else "left"), {i}, {i}
        case ["at", "which", "height", "is", "the", item, "?"]:
            i = named(item)
            return ("bottom" if things[i][3] else "top"), {i}, {i}
        case ["how", "many", "items", "are", "there", "?"]:
            return NUMBER[len(things)], set(things), set(things)
        case ["how", "many", tint, "items", "are", "there", "?"]:
            found = where(lambda k, t, x, y: t == TINT[tint])
            return NUMBER[len(found)], set(found), set(found)
        case ["how", "many", items, "are", "there", "?"]:
            found = where(lambda k, t, x, y: k == CLASSES[items])
            return NUMBER[len(found)], set(found), set(found)
        case ["what", "is", *beside, "the", item, "?"]:
            at = named(item)
            _, _, right, bottom = things[at]
            across = beside in (["left", "of"], ["right", "of"])
            assert (
                beside == [["left", "right"][not right], "of"] if across else beside == ["above" if bottom else "below"]
            )
            (i,) = where(lambda k, t, x, y: (x, y) == ((not right, bottom) if across else (right, not bottom)))
            return name(i), {at, i}, {i}
    raise AssertionError(text)


def things_of(questions, scene):
    """The items of a bundled scene by region: class, colour, on the right?, at the bottom?"""
    middle = (questions.boxes[scene, :, :2] + questions.boxes[scene, :, 2:]) / 2
    return {
        r: (int(questions.items[scene, r]), int(questions.colours[scene, r]), *(middle[r] > 0.5).tolist())
        for r in (questions.items[scene] >= 0).nonzero()[:, 0].tolist()
    }


def test_answers_and_evidence_follow_from_the_scene(questions):
    for i, text in enumerate(questions.texts):
        if not questions.answers[i]:
            continue
        answer, evidence, source = read_question(text, things_of(questions, int(questions.scene[i])))
        assert questions.answers[i] == answer, text
        assert set(questions.evidence[i].nonzero()[:, 0].tolist()) == evidence, text
        assert set(questions.source[i].nonzero()[:, 0].tolist()) == source, text


def test_counterparts_of_absent_questions_ask_the_same_about_what_is_there(questions):
    both, pairs = questions.counterparts()
    count = len(questions)
    assert both.select(torch.arange(count)).texts == questions.texts
    assert pairs[:, 1].tolist() == list(range(count, len(both)))
    assert set(pairs[:, 0].tolist()) <= set(questions.absent.nonzero()[:, 0].tolist())
    assert len(pairs) == 60
    for i, j in pairs.tolist():
        answer, evidence, source = read_question(both.texts[j], things_of(both, int(both.scene[j])))
        assert (both.answers[j], both.scene[j], both.kinds[j]) == (answer, both.scene[i], both.kinds[i])
        assert set(both.evidence[j].nonzero()[:, 0].tolist()) == evidence
        assert set(both.source[j].nonzero()[:, 0].tolist()) == source
        words = [both.texts[k].split() for k in (i, j)]
        assert [at for at, (a, b) in enumerate(zip(*words, strict=True), 1) if a != b] == [int(both.asked[j])]
    none, pairs = questions.select(~questions.absent).counterparts()
    assert len(none) == int((~questions.absent).sum())
    assert pairs.shape == (0, 2)


def test_every_question_that_can_be_asked_is_right():
    """All questions of all kinds about random sights, against the same reading of the text."""
    draw = Draw(0)
    kinds = Counter()
    for _ in range(100):
        full = draw.some(range(4), draw.between(2, 4))
        classes = tuple(draw.below(8) if c in full else -1 for c in range(4))
        tints = tuple(draw.below(6) if c in full else -1 for c in range(4))
        things = {c: (classes[c], tints[c], c % 2 == 1, c >= 2) for c in full}
        for kind, make in asking.ASK.items():
            for q in make(asking.Sight(classes, tints)):
                expected = read_question(" ".join(q.words), things)
                assert (q.answer, set(q.evidence), set(q.source)) == expected, q
                assert q.kind == kind
                assert set(q.words) <= set(asking.VOCABULARY)
                assert q.answer in asking.ANSWERS
                assert len(q.words) <= 7
                kinds[kind] += 1
    assert min(kinds.values()) > 80
    assert len(set(asking.VOCABULARY)) == len(asking.VOCABULARY)


# --- zoo/lxmert-scenes ----------------------------------------------------------------------------------------------


def test_the_bundled_questions_are_of_all_kinds(questions):
    assert questions.images.shape == (60, 80, 80, 3)
    assert questions.images.dtype == torch.uint8
    assert questions.boxes.shape == (60, 8, 4)
    assert bool(((questions.boxes >= 0) & (questions.boxes <= 1)).all())
    assert questions.features.shape == (60, 8, 64)
    counted = {kind: int(questions.of_kind(kind).sum()) for kind in asking.KINDS}
    assert min(counted.values()) >= 25, counted
    assert sum(counted.values()) == 180
    assert int(questions.absent.sum()) == 60
    assert len({(int(s), t) for s, t in zip(questions.scene, questions.texts, strict=True)}) == len(questions)


def test_absent_questions_ask_for_what_no_region_shows(questions):
    for i in questions.absent.nonzero()[:, 0].tolist():
        word = questions.texts[i].split()[questions.asked[i] - 1]
        assert CLASS[word] not in questions.items[questions.scene[i]].tolist()
        assert not questions.evidence[i].any()
        assert not questions.source[i].any()


def test_no_other_item_shows_the_answer(questions):
    shown = {
        "item": questions.items,
        "place": questions.items,
        "relation": questions.items,
        "colour": questions.colours,
    }
    for i, kind in enumerate(questions.kinds):
        if kind in shown and questions.answers[i]:
            values = shown[kind][questions.scene[i]]
            assert (values == values[questions.source[i]]).sum() == 1


def test_the_asked_word_names_what_is_asked_for(questions):
    for text, at in zip(questions.texts, questions.asked.tolist(), strict=True):
        if at < 0:
            assert text == "how many items are there ?"
        else:
            assert text.split()[at - 1] in {*CLASS, *CLASSES, *TINT, "top", "bottom"}


def test_redirections_differ_in_one_word_and_rest_on_other_regions(questions):
    pairs = questions.redirections()
    assert len(pairs) >= 50
    for i, j in pairs.tolist():
        first, second = questions.texts[i].split(), questions.texts[j].split()
        assert questions.scene[i] == questions.scene[j]
        changed = [at for at, (a, b) in enumerate(zip(first, second, strict=True), 1) if a != b]
        assert changed == [int(questions.asked[i])] == [int(questions.asked[j])]
        assert not torch.equal(questions.source[i], questions.source[j])


def test_select_keeps_questions_and_scenes_together(questions):
    few = questions.select(torch.tensor([7, 2]))
    assert few.texts == (questions.texts[7], questions.texts[2])
    assert torch.equal(few.inputs()["visual_feats"], questions.inputs()["visual_feats"][[7, 2]])
    assert torch.equal(few.evidence, questions.evidence[[7, 2]])
    assert len(questions.select(questions.absent)) == 60


def test_lxmert_is_as_good_on_the_bundled_questions_as_its_card_says(lxmert, questions):
    accuracy = zoo.cards()["zoo/lxmert-scenes"]["accuracy"]
    asked = questions.select(~questions.absent)
    assert len(asked) == accuracy["bundled_questions"]
    right = share(say(lxmert, asked.texts, **asked.inputs()), asked.answers)
    assert right == pytest.approx(accuracy["bundled"], abs=0.006)  # one of 180 may tip over by rounding
    assert right >= 0.85
    assert accuracy["test"] >= 0.9
    assert min(accuracy["per_kind"].values()) >= 0.88
    assert min(accuracy["bundled_per_kind"].values()) >= 0.75  # 30 questions: two standard errors
    assert sum(p.numel() for p in lxmert[0].parameters()) == zoo.cards()["zoo/lxmert-scenes"]["parameters"]


def test_lxmert_does_without_the_clutter(lxmert, questions):
    """Put the mean clutter in the place of each clutter box: hardly an answer changes."""
    asked = questions.select(~questions.absent)
    feats, pos = asked.inputs().values()
    clutter = (asked.items < 0)[asked.scene][..., None]
    plain = say(lxmert, asked.texts, visual_feats=feats, visual_pos=pos)
    grey = say(lxmert, asked.texts, visual_feats=feats.where(~clutter, feats[clutter[..., 0]].mean(0)), visual_pos=pos)
    assert share(plain, grey) > 0.9


def test_lxmert_follows_the_asked_word(lxmert, questions):
    """Of the pairs that differ in that word alone, most are answered right on both sides."""
    said = say(lxmert, questions.texts, **questions.inputs())
    right = torch.tensor([a == b for a, b in zip(said, questions.answers, strict=True)])
    assert right[questions.redirections()].all(1).float().mean() >= 0.75


def test_lxmert_cannot_tell_a_relation_without_the_item_that_is_named(lxmert, questions):
    """Mask its region: the source is still there, but the right answer is no longer known."""
    asked = questions.select(questions.of_kind("relation"))
    named = asked.evidence & ~asked.source
    assert named.sum(1).tolist() == [1] * len(asked)
    whole = share(say(lxmert, asked.texts, **asked.inputs()), asked.answers)
    without = share(say(lxmert, asked.texts, **asked.inputs(), visual_attention_mask=(~named).long()), asked.answers)
    assert without < whole - 0.2


def test_lxmert_cannot_answer_without_the_source(lxmert, questions):
    """Mask its region in attention, and the answer is gone."""
    for kind in ("item", "place", "colour", "relation"):
        asked = questions.select(questions.of_kind(kind))
        said = say(lxmert, asked.texts, **asked.inputs(), visual_attention_mask=(~asked.source).long())
        assert share(said, asked.answers) < 0.1, kind


def donor(questions, row):
    """Another scene's item (scene, region) that would change the answer and leave the question a good one; the new answer.

    Its features and the size of its box: that alone tells a part of the class, trousers are tall and narrow.
    """
    kind, scene, region = questions.kinds[row], int(questions.scene[row]), int(questions.source[row].nonzero()[0])
    item, colour = questions.items[scene, region], questions.colours[scene, region]
    wanted = (questions.items >= 0) & ~torch.isin(questions.items, questions.items[scene])
    if kind == "item":
        wanted &= questions.colours == colour
    if kind == "colour":
        wanted = (questions.items == item) & (questions.colours != colour)
    wanted[scene] = False
    choices = wanted.nonzero()
    other, region = choices[row % len(choices)].tolist()
    if kind == "colour":
        return other, region, questions.colour_names[questions.colours[other, region]]
    return other, region, questions.item_names[questions.items[other, region]]


def resized(boxes, like):
    """``boxes`` with the sizes of ``like``, about the same centres, moved into the picture."""
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, like[..., 2:] - like[..., :2]
    low = torch.minimum((centre - size / 2).clamp(min=0), 1 - size)
    return torch.cat([low, low + size], -1)


def test_lxmert_answers_what_stands_at_the_source(lxmert, questions):
    """Put another item there, from another scene, and it is the answer; the old one is gone from the scene."""
    for kind, enough in (("item", 0.8), ("place", 0.8), ("colour", 0.9), ("relation", 0.75)):
        asked = questions.select(questions.of_kind(kind))
        feats, pos = asked.inputs().values()
        donors = [donor(asked, row) for row in range(len(asked))]
        other = torch.stack([asked.features[scene, region] for scene, region, _ in donors])
        boxes = torch.stack([asked.boxes[scene, region] for scene, region, _ in donors])
        at = asked.source[..., None]
        feats = feats.where(~at, other[:, None])
        said = say(lxmert, asked.texts, visual_feats=feats, visual_pos=pos.where(~at, resized(pos, boxes[:, None])))
        assert share(said, [answer for *_, answer in donors]) >= enough, kind
        assert share(said, asked.answers) < 0.1, kind


def test_features_are_those_of_the_pixels_of_their_boxes(questions):
    """Paint over everything outside a box, and its features stay; a crop reads no pixel but its own and its border."""
    from regard.zoo.region_encoder import region_encoder

    encoder = region_encoder(zoo.folder("zoo/lxmert-scenes"))
    for scene, region in ((0, 0), (5, 3), (9, 7)):
        x0, y0, x1, y1 = (questions.boxes[scene, region] * 80).round().long().tolist()
        picture = torch.zeros_like(questions.images[scene])
        picture[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = questions.images[
            scene, max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1
        ]
        with torch.no_grad():
            seen = encoder(picture[None], questions.boxes[scene : scene + 1, region : region + 1])[0, 0]
        torch.testing.assert_close(seen, questions.features[scene, region], rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_lxmert_on_fresh_scenes_of_unseen_items(lxmert):
    if not SHARED.is_file():
        pytest.skip(f"needs {SHARED}: Fashion-MNIST is not part of the repository")
    train = pytest.importorskip("training.lxmert_scenes")
    from regard.zoo.region_encoder import region_encoder

    encoder = region_encoder(zoo.folder("zoo/lxmert-scenes"))
    scores = train.measure(lxmert[0], encoder, load_items(SHARED), torch.Generator().manual_seed(99), Draw(99))
    assert scores["test"] == pytest.approx(zoo.cards()["zoo/lxmert-scenes"]["accuracy"]["test"], abs=0.015)


# --- zoo/detr-scenes ------------------------------------------------------------------------------------------------


def test_bundled_detections_have_tight_boxes_and_disjoint_masks():
    scenes = zoo.detections()
    here = scenes.labels >= 0
    assert scenes.images.shape == (60, 80, 80, 3)
    assert scenes.masks.shape == (60, 4, 80, 80)
    assert set(here.sum(1).tolist()) == {2, 3, 4}
    assert bool((here[:, :-1] | ~here[:, 1:]).all())  # items first
    assert torch.equal(here, scenes.masks.flatten(2).any(2))
    assert scenes.masks.sum(1).max() == 1
    torch.testing.assert_close(crowds.tight_boxes(scenes.masks) / 80, scenes.boxes)
    assert len(scenes.select(torch.arange(5))) == 5


@torch.no_grad()
def find(detr, images):
    """What a picture's queries found, through the folder's own processor: boxes as fractions."""
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(zoo.folder("zoo/detr-scenes"))
    out = detr(**processor([Image.fromarray(image.numpy()) for image in images], return_tensors="pt"))
    rows = processor.post_process_object_detection(out, threshold=0.0)
    return [Boxes(row["boxes"], row["labels"], row["scores"]) for row in rows]


def test_detr_is_as_good_on_the_bundled_scenes_as_its_card_says(detr):
    scenes, card = zoo.detections(), zoo.cards()["zoo/detr-scenes"]
    assert detr.config.id2label == dict(enumerate(scenes.names))
    assert sum(p.numel() for p in detr.parameters()) == card["parameters"]
    rows = zip(scenes.boxes, scenes.labels, scenes.labels >= 0, strict=True)
    true = [Boxes(boxes[here], labels[here]) for boxes, labels, here in rows]
    measured = mean_average_precision(find(detr, scenes.images), true)
    assert measured == pytest.approx(card["accuracy"]["bundled_map50"], abs=0.01)
    assert measured >= 0.55
    assert card["accuracy"]["map50"] >= 0.6


def test_the_set_loss_is_that_of_a_loop():
    """Assignment by trying every order, losses one by one."""
    from itertools import permutations

    train = pytest.importorskip("training.detr_scenes")
    gen = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 4, generator=gen, dtype=torch.float64)
    found = torch.rand(2, 4, 4, generator=gen, dtype=torch.float64) * 0.5 + 0.1
    labels = torch.tensor([[2, -1, 0], [-1, 1, -1]])
    true = torch.rand(2, 3, 4, generator=gen, dtype=torch.float64) * 0.5 + 0.1

    def giou(a, b):
        (ax, ay, aw, ah), (bx, by, bw, bh) = a.tolist(), b.tolist()
        left, right = max(ax - aw / 2, bx - bw / 2), min(ax + aw / 2, bx + bw / 2)
        top, bottom = max(ay - ah / 2, by - bh / 2), min(ay + ah / 2, by + bh / 2)
        shared = max(right - left, 0) * max(bottom - top, 0)
        hull = (max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)) * (
            max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
        )
        union = aw * ah + bw * bh - shared
        return shared / union - (hull - union) / hull

    class_loss, weights, box_losses, giou_losses = 0.0, 0.0, [], []
    for b in range(2):
        objects = [i for i in range(3) if labels[b, i] >= 0]
        chance = logits[b].softmax(-1)

        def cost(order, b=b, objects=objects, chance=chance):
            return sum(
                5 * (found[b, q] - true[b, i]).abs().sum() - 2 * giou(found[b, q], true[b, i]) - chance[q, labels[b, i]]
                for q, i in zip(order, objects, strict=True)
            )

        best = min(permutations(range(4), len(objects)), key=cost)
        for q in range(4):
            object_ = objects[best.index(q)] if q in best else None
            kind, weight = (3, train.EMPTY) if object_ is None else (int(labels[b, object_]), 1.0)
            class_loss -= weight * float(chance[q, kind].log())
            weights += weight
            if object_ is not None:
                box_losses.append(float((found[b, q] - true[b, object_]).abs().sum()))
                giou_losses.append(1 - giou(found[b, q], true[b, object_]))
    count = len(box_losses)
    expected = class_loss / weights + 5 * sum(box_losses) / count + 2 * sum(giou_losses) / count
    assert float(train.set_loss(logits, found, labels, true)) == pytest.approx(expected, abs=1e-9)
