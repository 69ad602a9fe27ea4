"""Protocol 5 against loops over single questions, an oracle and a random map, and the traps: ties, few regions, zero maps."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import regard
from regard import Explanation, Target, zoo
from regard.errors import Misuse, UnknownName
from regard.evaluation import (
    Absence,
    Example,
    Necessity,
    Objects,
    Pointing,
    QuestionPerturbation,
    Redirection,
    RegionQuestions,
    Segmentation,
    Sufficiency,
    differences,
    found_by,
    logic,
    perturbation,
    sample_of,
    segmentation,
    summaries,
)
from regard.evaluation.protocols.box_matching import Boxes, overlaps
from regard.evaluation.protocols.perturbation import Perturbation
from regard.evaluation.protocols.region_logic import asked_now, orders
from regard.evaluation.protocols.region_questions import entropy, probabilities
from regard.explanation.raw_inputs import Reading
from regard.report.evaluation import html as protocols
from support import families
from support.records import record, records

ANSWERS = "question_answering_score"


@pytest.fixture(scope="module")
def tiny():
    """A random LXMERT, questions of 5 and of 3 words (CLS and SEP among them), 4 regions."""
    case = families.CASES["lxmert"]()
    model, inputs = case.model.eval(), {k: v[:2] for k, v in case.inputs.items()}
    special = torch.zeros(2, 5, dtype=torch.bool)
    special[:, 0] = special[0, 4] = special[1, 2] = True
    evidence = torch.tensor([[True, True, False, False], [False, False, True, False]])
    source = evidence & torch.tensor([True, False, True, True])
    data = RegionQuestions(
        inputs, ("a", "b"), torch.tensor([1, 2]), evidence, source, torch.tensor([2, 1]), special | (inputs["input_ids"] == 0),
        redirections=torch.tensor([[0, 1]]), absences=torch.tensor([[1, 0]]),
        empty={"visual_feats": torch.full((8,), 0.5), "visual_pos": torch.full((4,), 0.25)}, output=ANSWERS,
    )  # fmt: skip
    return model, data


def judged(*asked):
    """`logic`, one record a question or pair."""
    return records(logic(*asked))


def explained(model, data, method="random", target=None, **options):
    return regard.explain(model, dict(data.inputs), Target.logit(target, output=data.output), method, **options)


def with_scores(explanation, **scores):
    return dataclasses.replace(explanation, scores=explanation.scores | scores)


@torch.no_grad()
def alone(model, data, i, unit, away, gone):
    """Probabilities of one question by itself, its units `gone` taken away by hand."""
    inputs = {k: v[i : i + 1].clone() for k, v in data.inputs.items()}
    real = int(inputs["attention_mask"].sum())
    inputs["input_ids"], inputs["attention_mask"] = inputs["input_ids"][:, :real], inputs["attention_mask"][:, :real]
    if unit == "token" and away == "drop":
        keep = [t for t in range(real) if t not in gone]
        inputs["input_ids"], inputs["attention_mask"] = inputs["input_ids"][:, keep], inputs["attention_mask"][:, keep]
    elif unit == "token":
        inputs["attention_mask"][0, list(gone)] = 0
    elif away == "mask":
        mask = torch.ones(1, 4)
        mask[0, list(gone)] = 0
        inputs["visual_attention_mask"] = mask
    else:
        for r in gone:
            inputs["visual_feats"][0, r], inputs["visual_pos"][0, r] = 0.5, 0.25
    return model(**inputs).question_answering_score[0].double().softmax(-1)


@pytest.mark.parametrize(
    ("unit", "away"), [("region", "mask"), ("region", "empty"), ("token", "drop"), ("token", "mask")]
)
@pytest.mark.parametrize("test", [Necessity, Sufficiency])
def test_taking_away_agrees_with_a_loop_over_single_questions(tiny, test, unit, away):
    model, data = tiny
    exp = explained(model, data, "heterogenous", sign="signed")
    rows = judged(model, exp, data, test(k=1, unit=unit, away=away), "m")
    for i, row in enumerate(rows):
        scores = exp.scores["visual_feats" if unit == "region" else "input_ids"][i].tolist()
        real = range(4) if unit == "region" else [t for t in range(5) if not data.special[i, t]]
        best = max(real, key=lambda t: scores[t])
        gone = {best} if test is Necessity else set(real) - {best}
        before, after = (alone(model, data, i, unit, away, g) for g in (set(), gone))
        c = int(before.argmax())
        changed, fall = float(int(after.argmax()) != c), float(before[c] - after[c])
        first, second = ("changed", "fall") if test is Necessity else ("stays", "loss")
        assert row.values[first] == (changed if test is Necessity else 1 - changed)
        assert row.values[second] == pytest.approx(fall, abs=1e-5)
        assert (row.title, row.example, row.predicted, row.row.label) == ("m", "ab"[i], c, i + 1)
    assert any(abs(r.values[second]) > 1e-4 for r in rows)


def test_a_masked_region_is_not_read(tiny):
    """Neither its features nor its box, which tells a part of the class."""
    model, data = tiny
    other = dict(data.inputs) | {k: data.inputs[k].clone() for k in ("visual_feats", "visual_pos")}
    for k in ("visual_feats", "visual_pos"):
        other[k][:, 2] += 7.0
    taken = torch.tensor([[False, False, True, False]] * 2)
    rows = torch.arange(2)
    same = probabilities(model, data, "region", "mask", rows, taken)
    moved = dataclasses.replace(data, inputs=other)
    assert torch.equal(probabilities(model, moved, "region", "mask", rows, taken), same)
    assert not torch.allclose(probabilities(model, moved, "region", "mask", rows, taken & False), same, atol=1e-4)


class Scores(nn.Module):
    """The same model, with its scores as its output."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, visual_feats, visual_pos):
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, visual_feats=visual_feats, visual_pos=visual_pos
        ).question_answering_score


@pytest.mark.parametrize(("stream", "order"), [("visual_feats", "positive"), ("input_ids", "negative")])
def test_areas_are_those_of_the_protocol_for_one_stream(tiny, stream, order):
    """There regions are left out of every attention call of a watched run; here the model gets its own mask."""
    model, data = tiny
    plain, setting = (
        Scores(model).eval(),
        QuestionPerturbation(order=order, steps=(0.25, 0.5, 0.75), auc=(0, 0.75), stream=stream),
    )
    exp = explained(model, data, "heterogenous", sign="signed")
    for i, row in enumerate(judged(model, exp, data, setting)):
        real = int(data.inputs["attention_mask"][i].sum())
        inputs = {k: v[i : i + 1] if "visual" in k else v[i : i + 1, :real] for k, v in data.inputs.items()}
        one = sample_of(exp, i)
        one = with_scores(one, input_ids=one.scores["input_ids"][:, :real])
        example = Example(data.names[i], Reading(inputs, special={"input_ids": data.special[i : i + 1, :real]}), i + 1)
        alone = Perturbation("token", "drop", order, steps=setting.steps, auc=setting.auc, stream=stream)
        expected = record(perturbation(plain, one, example, alone))
        assert row.protocol.name == expected.protocol.name
        assert row.values == pytest.approx(expected.values, abs=1e-5)
        assert row.curves["probability"] == pytest.approx(expected.curves["probability"], abs=1e-5)


def test_words_are_cut_out_and_nothing_else_is():
    """Traps: a mask of regions of the very shape of the ids; padding on the left; positions that are given."""
    ids = torch.tensor([[0, 7, 8, 9, 3], [5, 6, 7, 8, 3]])
    inputs = {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "position_ids": torch.tensor([[0, 0, 1, 2, 3], [0, 1, 2, 3, 4]]),
        "visual_feats": torch.zeros(2, 5, 1),
        "visual_attention_mask": torch.tensor([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1]]),
    }
    known = torch.zeros(2, 5, dtype=torch.bool)
    data = RegionQuestions(
        inputs, ("a", "b"), torch.tensor([0, 0]), known, known, torch.tensor([-1, -1]), (ids == 0) | (ids == 3), pad=99
    )
    assert data.real("token").tolist() == [[False, True, True, True, False], [True, True, True, True, False]]
    assert torch.equal(data.real("region"), inputs["visual_attention_mask"].bool())
    taken = torch.tensor([[False, False, True, False, False], [True, False, False, False, False], [False] * 5])
    got = data.without("token", "drop", torch.tensor([0, 1, 0]), taken)
    assert got["input_ids"].tolist() == [[7, 9, 3, 99], [6, 7, 8, 3], [7, 8, 9, 3]]
    counts = (3, 4, 4)
    assert got["attention_mask"].tolist() == [[1, 1, 1, 0], [1] * 4, [1] * 4]
    for positions, count in zip(got["position_ids"].tolist(), counts, strict=True):
        assert positions[:count] == list(range(count))
    assert torch.equal(got["visual_attention_mask"], inputs["visual_attention_mask"][[0, 1, 0]])


def test_rows_make_a_page(tiny, tmp_path):
    model, data = tiny
    maps = {m: explained(model, data, m) for m in ("random", "gae")}
    rows = [r for p in (Necessity(), Redirection()) for m, e in maps.items() for r in logic(model, e, data, p, m)]
    text = protocols.write_page(rows, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "logic/necessity/region-mask/k=1/signed/predicted" in text.replace("<wbr>", "")


def test_rows_do_not_depend_on_batch_mates(tiny):
    model, data = tiny
    exp = explained(model, data, "gae")
    some = data.select(torch.tensor([1]))
    assert some.redirections.shape == (0, 2)
    for setting in (
        Necessity(k="evidence"),
        Sufficiency(unit="token"),
        Pointing(),
        QuestionPerturbation(stream="input_ids"),
    ):
        both = judged(model, exp, data, setting)[1]
        (one,) = judged(model, sample_of_batch(exp, 1), some, setting)
        assert one.values == pytest.approx(both.values, abs=1e-5)


def sample_of_batch(exp, i):
    receipt = dataclasses.replace(
        exp.receipt, predicted=exp.receipt.predicted[i : i + 1], explained=exp.receipt.explained[i : i + 1]
    )
    return dataclasses.replace(sample_of(exp, i), receipt=receipt)


def test_redirection_and_absence_by_hand(tiny):
    model, data = tiny
    regions = torch.tensor([[4.0, 1.0, 2.0, -1.0], [1.0, 0.0, 3.0, 0.0]])
    words = torch.tensor([[9.0, 1.0, 2.0, 0.0, 9.0], [9.0, 1.0, 9.0, 0.0, 0.0]])
    exp = with_scores(explained(model, data), visual_feats=regions, input_ids=words)
    (row,) = judged(model, exp, data, Redirection())
    # sources {0} and {2}: shares 4/7 and 1/4 on region 0, 3/4 and 2/7 on region 2; negative scores have no share
    assert row.values == {"redirected": 1.0, "shift": pytest.approx((4 / 7 - 1 / 4 + 3 / 4 - 2 / 7) / 2), "marked": 1.0}
    assert row.example == "a > b"
    (row,) = judged(model, exp, data, Absence())
    h = [-sum(p * math.log(p) for p in ps) / math.log(4) for ps in ((1 / 4, 3 / 4), (4 / 7, 1 / 7, 2 / 7))]
    assert row.values["entropy_absent"] == pytest.approx(h[0])
    assert row.values["entropy_present"] == pytest.approx(h[1])
    assert row.values["difference"] == pytest.approx(h[0] - h[1])
    assert row.values["largest_absent"] == pytest.approx(3 / 4)
    turned = with_scores(exp, visual_feats=regions.flip(0), input_ids=words.flip(0))
    assert judged(model, turned, data, Redirection())[0].values["redirected"] == 0
    assert judged(model, turned, data, Redirection())[0].values["shift"] < 0
    big = with_scores(exp, visual_feats=torch.tensor([[4.0, 1.0, 2.0, -9.0]] * 2))
    assert judged(model, big, data, Pointing())[0].values["pointing"] == 1
    assert judged(model, big, data, Pointing(sign="absolute"))[0].values["pointing"] == 0


def test_what_both_questions_are_about_does_not_tell_them_apart():
    a, b, both = (torch.tensor(x, dtype=torch.bool) for x in ([1, 0, 0], [1, 1, 0], [1, 0, 0]))
    assert asked_now(b, a).tolist() == [False, True, False]
    assert asked_now(a, b).tolist() == [True, False, False]  # all of them, where none is its own
    assert asked_now(a, both).tolist() == a.tolist()


def test_entropy():
    assert entropy(torch.ones(8)) == pytest.approx(1)
    assert entropy(torch.tensor([0.0, 3.0])) == 0
    assert math.isnan(entropy(torch.zeros(4)))
    assert math.isnan(entropy(torch.ones(1)))


def test_a_flat_map_gets_what_chance_gives_and_a_zero_map_has_no_shares(tiny):
    model, data = tiny
    exp = with_scores(explained(model, data), visual_feats=torch.zeros(2, 4), input_ids=torch.zeros(2, 5))
    assert [r.values["pointing"] for r in judged(model, exp, data, Pointing())] == [1 / 4, 1 / 4]
    (row,) = judged(model, exp, data, Redirection())
    assert row.values["redirected"] == pytest.approx(1 / 16)
    assert row.values["marked"] == pytest.approx(1 / 3)  # of three words and of one: CLS, SEP and padding take no part
    assert math.isnan(row.values["shift"])
    rows = logic(model, exp, data, Absence())
    found = {s.metric: s for s in summaries(rows)}
    assert math.isnan(found["difference"].value.value)
    assert (found["difference"].examples, found["difference"].undefined) == (0, 1)
    tied = [
        orders(exp, dataclasses.replace(data, names=(f"q{n}", f"r{n}")), Necessity(), 0)[0].tolist() for n in range(8)
    ]
    assert len({order[0] for order in tied}) > 1  # not always the first region
    again = with_scores(exp, visual_feats=torch.full((2, 4), 3.0))
    assert [o.tolist() for o in orders(again, data, Necessity(), 0)] == [
        o.tolist() for o in orders(exp, data, Necessity(), 0)
    ]


def test_fewer_than_k_regions(tiny):
    """Masking all of them leaves attention nothing to look at: an error on that question's row alone."""
    model, data = tiny
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    few = dataclasses.replace(data, inputs=dict(data.inputs) | {"visual_attention_mask": mask})
    exp = explained(model, few, "random")
    assert [sorted(o.tolist()) for o in orders(exp, few, Necessity(), 0)] == [[0, 1, 2, 3], [2, 3]]
    good, bad = judged(model, exp, few, Necessity(k=2))
    assert (good.error, bad.values) == ("", {})
    assert "smaller k" in bad.error
    assert all(r.values == {"stays": 1.0, "loss": 0.0} for r in judged(model, exp, few, Sufficiency(k=9)))
    emptied = judged(model, exp, few, Necessity(k=9, away="empty"))
    assert not any(r.error for r in emptied)
    unknown = dataclasses.replace(few, evidence=few.evidence & torch.tensor([[True], [False]]))
    assert [bool(r.error) for r in judged(model, exp, unknown, Necessity(k="evidence"))] == [False, True]
    with pytest.raises(Misuse, match="empty="):
        judged(model, exp, dataclasses.replace(few, empty={}), Necessity(away="empty"))


def test_a_curve_ends_before_all_regions_are_masked(tiny):
    """Where all are masked, attention looks at all of them alike: such a step would show the model what is taken away."""
    model, data = tiny
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1]])
    few = dataclasses.replace(data, inputs=dict(data.inputs) | {"visual_attention_mask": mask})
    exp = explained(model, few)
    made = {
        last: judged(model, exp, few, QuestionPerturbation(steps=(0.5, last), auc=(0, last), stream="visual_feats"))
        for last in (0.75, 1.0)
    }
    assert [r.error for r in made[0.75]] == ["", ""]
    assert all(not r.values and not r.curves and "all regions" in r.error for r in made[1.0])


def test_misuse_is_said(tiny):
    model, data = tiny
    exp = explained(model, data)
    for wrong in (
        {"k": 0}, {"k": True}, {"k": 1.5},
        {"k": "evidenc"}, {"unit": "word"}, {"away": "drop"}, {"sign": "positive"}, {"explained": "x"},
        {"unit": "token", "k": "evidence"},
    ):  # fmt: skip
        with pytest.raises(Misuse):
            Necessity(**wrong)
    wrong = 1 - exp.receipt.predicted.clamp(max=1)
    with pytest.raises(Misuse, match="is for another one"):
        judged(model, explained(model, data, target=wrong), data, Pointing())
    labelled = explained(model, data, target=data.labels)
    assert [r.row.explained for r in judged(model, labelled, data, Necessity(explained="true"))] == [1, 2]
    custom = regard.explain(model, dict(data.inputs), lambda out: out.question_answering_score[:, 0], "random")
    with pytest.raises(Misuse, match="must be a class"):
        judged(model, custom, data, Pointing())
    with pytest.raises(Misuse, match="QuestionPerturbation"):
        judged(model, exp, data, QuestionPerturbation(stream="pixel_values"))
    wider = dict(data.inputs) | {"visual_feats": torch.zeros(2, 5, 8)}
    with pytest.raises(Misuse, match="not of these"):
        judged(model, exp, dataclasses.replace(data, inputs=wider), Pointing())
    with pytest.raises(UnknownName):
        dataclasses.replace(data, regions="visual_feat")
    with pytest.raises(Misuse, match="a name of their own"):
        dataclasses.replace(data, names=("a", "a"))
    with pytest.raises(Misuse, match="follows no paths"):
        judged(model, exp, data, Pointing(of="asked"))


def test_names_hold_every_choice_and_directions_are_known():
    assert Necessity(k="evidence").name == "logic/necessity/region-mask/k=evidence/signed/predicted"
    assert (
        Sufficiency(k=2, unit="token", away="mask", sign="absolute").name
        == "logic/sufficiency/token-mask/k=2/absolute/predicted"
    )
    assert Redirection(explained="true").name == "logic/redirection/signed/true"
    assert Pointing(of="asked").name == "logic/pointing/asked/signed/predicted"
    better = {p.test: {m: p.direction(m) for m in ("changed", "loss", "difference", "entropy_absent")} for p in
              (Necessity(), Sufficiency(), Absence())}  # fmt: skip
    assert better["necessity"] == {"changed": 1, "loss": 0, "difference": 0, "entropy_absent": 0}
    assert better["sufficiency"] == {"changed": 0, "loss": -1, "difference": 0, "entropy_absent": 0}
    assert better["absence"] == {"changed": 0, "loss": 0, "difference": 1, "entropy_absent": 0}


# -- the zoo -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked():
    """Every third bundled question, and the pairs of redirection and absence that are left whole."""
    from transformers import AutoTokenizer, LxmertForQuestionAnswering

    home, bundled = zoo.folder("zoo/lxmert-scenes"), zoo.questions()
    model = LxmertForQuestionAnswering.from_pretrained(home).eval()
    questions, absences = bundled.counterparts()
    words = AutoTokenizer.from_pretrained(home)(
        list(questions.texts), padding=True, return_tensors="pt", return_token_type_ids=False,
        return_special_tokens_mask=True,
    )  # fmt: skip
    special, clutter = words.pop("special_tokens_mask").bool(), questions.items < 0
    data = RegionQuestions(
        dict(words) | questions.inputs(), tuple(map(str, range(len(questions)))),
        torch.tensor([model.config.label2id.get(a, -1) for a in questions.answers]),
        questions.evidence, questions.source, questions.asked, special, bundled.redirections(), absences,
        empty={"visual_feats": questions.features[clutter].mean(0), "visual_pos": questions.boxes[clutter].mean(0)},
        output=ANSWERS,
    )  # fmt: skip
    return model, data


def mean(found, metric):
    found = [r.values[metric] for r in found if not r.error]
    return sum(found) / len(found)


def test_an_oracle_passes_where_a_random_map_fails(asked):
    """On the trained model: what the tests ask is true of the known regions, and is not true of any regions."""
    model, data = asked
    data = data.select((data.labels >= 0).nonzero()[:160, 0])
    blind = explained(model, data)
    known = with_scores(
        blind,
        visual_feats=data.evidence.float() + data.source.float(),
        input_ids=(torch.arange(data.special.shape[1]) == data.asked[:, None]).float(),
    )
    bounds = [
        (Pointing(), "pointing", 1.0, 0.3),
        (Necessity(k="evidence"), "changed", 0.75, 0.4),
        (Necessity(k="evidence", away="empty"), "changed", 0.75, 0.4),
        (Sufficiency(k="evidence", away="empty"), "stays", 0.95, 0.5),
        (Redirection(), "redirected", 1.0, 0.2),
        (Redirection(), "marked", 1.0, 0.2),
        (Redirection(), "shift", 0.9, 0.1),
        (Necessity(unit="token"), "changed", 0.5, 0.4),
    ]
    for setting, metric, least, most in bounds:
        right, wrong = (mean(judged(model, e, data, setting), metric) for e in (known, blind))
        assert right >= least, setting.name
        assert wrong <= most, setting.name
    positive = QuestionPerturbation(stream="visual_feats")
    rows = [r for e, m in ((known, "known"), (blind, "random")) for r in logic(model, e, data, positive, m)]
    (difference,) = differences(rows, "auc_probability")
    assert difference.sure
    assert difference.value.value < 0


def test_the_asked_word_looks_at_its_regions(asked):
    """`between`, the rows of every question's own word."""
    model, data = asked
    some = data.select(torch.arange(0, 240, 12))
    exp = explained(model, some, "rollout")
    rows = judged(model, exp, some, Pointing(of="asked"))
    whole = exp.between("input_ids", "visual_feats")
    for i, row in enumerate(rows):
        if some.asked[i] < 0 or not some.source[i].any():
            assert row.error
        else:
            assert row.values["pointing"] == float(some.source[i, int(whole[i, some.asked[i]].argmax())])


# -- objects -----------------------------------------------------------------------------------------------------------


def test_each_object_is_found_by_the_surest_query_of_its_class_that_covers_it():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        corner = torch.rand(9, 2, generator=generator) * 0.3
        boxes = torch.cat([corner, corner + 0.5 + torch.rand(9, 2, generator=generator) * 0.2], 1)
        labels, scores = torch.randint(2, (9,), generator=generator), torch.rand(6, generator=generator)
        true, found = Boxes(boxes[:3], labels[:3]), Boxes(boxes[3:], labels[3:], scores)
        iou = overlaps(true.boxes, found.boxes)
        pairs = [
            (float(scores[j]), i, j)
            for i in range(3)
            for j in range(6)
            if iou[i, j] >= 0.5 and labels[i] == labels[3 + j]
        ]
        expected = [-1] * 3
        # the same query: the first true box in order
        for _, i, j in sorted(pairs, key=lambda p: (-p[0], p[1])):
            if expected[i] < 0 and j not in expected:
                expected[i] = j
        assert found_by([found], [true]) == [expected]
    assert found_by([Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))], [true]) == [[-1] * 3]


def test_one_forward_serves_all_objects():
    """Slots of a batch, each object's row as by a call of its own."""
    from transformers import AutoModelForObjectDetection

    model = AutoModelForObjectDetection.from_pretrained(zoo.folder("zoo/detr-scenes")).eval()
    scenes = zoo.detections().select(torch.arange(1, 3))
    x = scenes.images.permute(0, 3, 1, 2).float() / 127.5 - 1
    queries = torch.where(scenes.labels >= 0, torch.tensor([[5, 2, 0, 7]]), -1)
    objects, setting = Objects(scenes.labels, scenes.masks, queries), Segmentation(stream="pixel_values")
    runs = []
    handle = model.register_forward_hook(lambda *_: runs.append(1))
    maps = regard.explain(model, {"pixel_values": x}, objects.targets(), "heterogenous")
    handle.remove()
    assert len(runs) == 1
    rows = {r.example: r for r in records(objects.rows(maps, setting, "m"))}
    assert len(rows) == int((scenes.labels >= 0).sum())
    for i, j in (scenes.labels >= 0).nonzero().tolist():
        target = Target.detection(int(queries[i, j]), int(scenes.labels[i, j]))
        alone = regard.explain(model, {"pixel_values": x[i : i + 1]}, target, "heterogenous")
        assert isinstance(alone, Explanation)
        torch.testing.assert_close(
            maps[j].scores["pixel_values"][i], alone.scores["pixel_values"][0], atol=1e-5, rtol=1e-3
        )
        expected = record(segmentation(alone, Example("x", Reading({}), mask=scenes.masks[i, j]), setting))
        row = rows[f"{i}-{j}"]
        assert row.values["pointing"] == expected.values["pointing"]
        assert row.values["ap"] == pytest.approx(expected.values["ap"], abs=1e-3)
    with pytest.raises(Misuse, match="4 slots"):
        objects.rows(maps[:2], setting)
    with pytest.raises(regard.errors.TargetError, match="object query"):
        regard.explain(model, {"pixel_values": x}, Target.detection(torch.tensor([0, 1, 2])), "random")
    with pytest.raises(regard.errors.TargetError, match="out of range"):
        regard.explain(model, {"pixel_values": x}, Target.detection(torch.tensor([0, 8])), "random")
