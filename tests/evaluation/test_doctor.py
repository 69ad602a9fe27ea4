"""`regard.doctor`: on models whose answer is known, with methods that are broken, on a clock that is made up, and gone on
with."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import regard
from regard.attribution.table import METHODS
from regard.errors import Failure, InputError, Misuse, UnknownName
from regard.evaluation import Example, Row, budget, data_set
from regard.evaluation import doctor as doctors
from regard.evaluation.budget import SLACK, WANTED, Costs, MethodCost, bought
from regard.evaluation.data.drawn import Drawn
from regard.evaluation.diagnosis import Diagnosis, verdict
from regard.evaluation.engines import work
from regard.evaluation.plan import Shard
from regard.evaluation.protocols.agreement import WITH, MapAgreement
from regard.evaluation.protocols.causal import Causal
from regard.explanation.raw_inputs import Reading
from support.handmade import Attending

BERT = "zoo/bert-sentiment"
BROKEN = "same_everywhere"


@pytest.fixture(scope="module")
def broken() -> Iterator[str]:
    """A method that looks at nothing: the later a token, the higher its score."""
    regard.register(BROKEN, lambda context: context.recording.zeros() + torch.arange(context.recording.rows))
    yield BROKEN
    METHODS.pop(BROKEN)


@pytest.fixture(scope="module")
def found(broken: str, tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    out = tmp_path_factory.mktemp("doctor") / "bert"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "CHECKED", 2)
        return regard.doctor(BERT, methods=["gae", "raw_attention", broken], minutes=9, out=out, examples=9)


def doubted(of: Diagnosis, title: str) -> str:
    return " ".join(d.sentence for d in of.doubts if d.title == title)


# -- known answers --------------------------------------------------------------------------------------------------------


def test_what_it_finds_on_sentences(found: Diagnosis) -> None:
    assert found.recommended == "gae"
    assert found.sentence.startswith(
        "Use gae by default: on 8 examples of zoo/bert-sentiment, what it puts first matters"
    )
    assert found.standings[0].title == "gae"
    assert found.of("gae").better
    assert not found.of("random").better
    assert found.control is found.of("random")
    assert abs(found.of("random").rank.value - 0.5) < 0.25
    assert found.proof[1] is True
    assert sum(found.failures.values()) == 1  # a sentence of four words
    assert "too few to test" in next(iter(found.failures))


def test_a_method_that_ignores_the_model_is_named(found: Diagnosis) -> None:
    said = doubted(found, BROKEN)
    assert "not shown to be better than chance" in said
    assert verdict(found.of(BROKEN), found) in ("not shown to be better than chance", "worse than chance")
    assert "not a map of your model: all of its 2 maps stay the same when all weights are drawn anew" in said
    assert any(d.rules_out for d in found.doubts if d.title == BROKEN)
    assert not doubted(found, "random")  # it is the control, and claims nothing
    assert not doubted(found, "gae")


def test_attention_alone_does_not_know_the_class(found: Diagnosis) -> None:
    assert "does not know which class is explained" in doubted(found, "raw_attention")
    assert found.of("raw_attention").head_unchanged.value == 1.0
    assert found.of("gae").head_unchanged.value == 0.0


def test_what_is_printed_and_written(found: Diagnosis, tmp_path: Path) -> None:
    shown = str(found)
    for line in (found.sentence, *found.purchase, *(d.sentence for d in found.doubts)):
        assert line in shown
    assert "bought 8 examples under 4 methods" in shown
    assert "No more than 9 examples were asked for; a verdict should rest on 50 or more." in shown
    assert "1 example failed: Misuse: 5 words are too few to test; at least 8 are needed." in shown
    lines = found.to_csv(tmp_path / "r.csv").read_text("utf-8").splitlines()
    assert len(lines) == 1 + 4
    assert lines[1].startswith("gae,use by default,")
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["recommended"] == "gae"
    assert [r["method"] for r in told["ranking"]] == [s.title for s in found.standings]
    assert {r.protocol.kind for r in found.rows} == {"causal", "attribution-error", "agreement", "sanity", "noise"}


def test_the_same_call_computes_nothing_anew(
    found: Diagnosis, broken: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = next(tmp_path_factory.getbasetemp().glob("doctor*/bert"))
    monkeypatch.setattr(work.Worker, "parquet", lambda *_: pytest.fail("computed anew"))
    monkeypatch.setattr(budget, "CHECKED", 2)
    how: dict[str, Any] = {"methods": ["gae", "raw_attention", broken], "minutes": 9, "examples": 9}
    again = regard.doctor(BERT, out=home, **how)
    assert again.csv() == found.csv()
    for changed, what in (
        ({"seed": 1}, "other seed: 0, and now 1"),
        ({"methods": ["gae"]}, "other methods: random, gae"),
    ):
        with pytest.raises(Misuse, match=what):
            regard.doctor(BERT, out=home, **how | changed)
    (home / "spent.json").write_text("no")
    with pytest.raises(InputError, match=r"spent\.json is not what regard doctor wrote"):
        regard.doctor(BERT, out=home, **how)
    (home / "plan.json").write_text('{"format": "x"}')
    with pytest.raises(InputError, match="is not the plan of regard doctor"):
        regard.doctor(BERT, out=home, **how)


@pytest.mark.long
def test_what_it_finds_on_scenes(tmp_path: Path) -> None:
    how: dict[str, Any] = {"methods": ["gae", "raw_attention", "attnlrp", "grad_cam"], "minutes": 9, "examples": 50}
    found = regard.doctor("zoo/vit-scenes", out=tmp_path / "x", **how)
    assert found.examples == 50
    assert found.recommended in ("gae", "attnlrp")
    assert found.standings[-1].title in ("random", "grad_cam")
    assert not found.of("random").better
    assert found.of("gae").rank.low > 0.9


@pytest.mark.long
def test_of_an_untrained_model_it_promises_nothing_for_what_ignores_it(broken: str, tmp_path: Path) -> None:
    reader = regard.load(BERT)
    torch.manual_seed(0)
    for parameter in reader.model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    found = regard.doctor(reader, BERT, methods=["raw_attention", broken], minutes=9, out=tmp_path / "x", examples=40)
    assert found.recommended is None
    assert "No method is shown to be better than chance on" in found.sentence


@pytest.mark.long
def test_gradients_of_an_untrained_model_hardly_depend_on_the_class(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    trained = regard.load("zoo/vit-scenes")
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**trained.model.config.to_dict())).eval()
    reader = regard.load(model, processor=trained.processor)
    found = regard.doctor(
        reader, "zoo/vit-scenes", methods=["gradient", "attnlrp"], minutes=5, out=tmp_path / "x", examples=12
    )
    assert "hardly depends on which class is explained" in doubted(found, "gradient")
    assert "hardly depends" not in doubted(found, "attnlrp")
    assert found.recommended != "gradient"


def test_a_module_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "CHECKED", 2)
    draw = torch.Generator().manual_seed(3)
    xs = torch.randn(7, 1, 12, Attending.width, generator=draw, dtype=torch.float64)
    given = [Example(f"e{i}", Reading({"x": x})) for i, x in enumerate(xs)]
    model = Attending(12)
    found = regard.doctor(model, given, methods=[("occlusion", {})], minutes=5, out=tmp_path / "x")
    assert found.model == "Attending"
    assert found.of("occlusion").better
    assert found.of("occlusion").rank.value > 0.9
    assert found.of("occlusion").examples == 7
    assert found.sentence.startswith("Use occlusion by default: on 7 given examples, ")


def test_examples_are_drawn_and_their_classes_left_aside() -> None:
    data = data_set("zoo/bert-sentiment")
    drawn = Drawn(of=data, seed=1)
    names = [drawn.name_of(i) for i in range(len(data))]
    assert sorted(names) == sorted(data.name_of(i) for i in range(len(data)))
    assert names[:5] != [data.name_of(i) for i in range(5)]
    assert [Drawn(of=data, seed=1).name_of(i) for i in range(40)] == names
    assert Drawn(of=data, seed=2).name_of(0) != names[0]
    reader = regard.load(BERT)
    assert drawn.example(reader, 0).label is None
    assert data.example(reader, 0).label is not None
    assert drawn.digest() == data.digest()
    assert drawn.choices() != Drawn(of=data, seed=2).choices()
    assert not drawn.labelled


# -- a clock that is made up ------------------------------------------------------------------------------------------------


class Made:
    """A model that costs what it is said to: rows are drawn, and the clock goes on as far as they would take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, costs: Costs, jitter: float = 0.2, seed: int = 0) -> None:
        self.now, self.costs, self.jitter, self.draw, self.computed = 0.0, costs, jitter, random.Random(seed), 0
        monkeypatch.setattr(doctors, "_proof", lambda *_: ("12 rows rest on the tokens that maps name", True))
        monkeypatch.setattr(doctors.Meter, "measured", self.measured)
        made = self

        def rows(worker: work.Worker, shard: Shard) -> list[Row]:
            return made.rows(worker.work, shard)

        monkeypatch.setattr(work.Worker, "rows", rows)

    def clock(self) -> float:
        return self.now

    def measured(self, *_: Any) -> Any:
        self.now += self.costs.spent
        return self.costs, {}, {}

    def rows(self, job: work.Work, shard: Shard) -> list[Row]:
        titles = [m.title for m in job.methods]
        checks = not any(isinstance(p, Causal) for p in job.protocols)
        cost = self.costs.check(titles) if checks else self.costs.example(titles)
        self.now += cost * self.draw.uniform(1 - self.jitter, 1 + self.jitter)
        self.computed += 1
        names = {"causal": "rank", "sanity": "final", "noise": "similarity", "agreement": f"{WITH}random"}
        return [
            Row(p, job.data.name_of(i), names.get(p.kind, "relative_error"), self.draw.randint(0, 9) / 9, **m.columns())
            for i in range(shard.first, shard.last)
            for m in job.methods
            for p in job.protocols
            if not (isinstance(p, MapAgreement) and m.title == "random")
        ]


def costs(forward: float, methods: int = 8, spent: float = 20.0) -> Costs:
    """Of a model by the time of a forward pass: a method takes two and a half of them, its checks eight."""
    names = ("random", *doctors.METHODS)[:methods]
    return Costs(forward, forward, 12 * forward, {n: MethodCost(2.5 * forward, 8 * forward) for n in names}, spent)


def examples(count: int) -> list[Example]:
    ids = torch.arange(1, 12)[None]
    return [Example(f"e{i}", Reading({"input_ids": ids, "attention_mask": torch.ones_like(ids)})) for i in range(count)]


@pytest.fixture(scope="module")
def reader() -> Any:
    return regard.load(BERT)


@pytest.mark.parametrize(("minutes", "forward"), [(10.0, 0.37), (1.0, 0.02)])
def test_it_ends_on_time(
    minutes: float, forward: float, reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(monkeypatch, costs(forward, spent=min(20.0, 6 * minutes)))
    found = regard.doctor(reader, examples(120), minutes=minutes, out=tmp_path / "x", clock=made.clock)
    assert made.now <= 60 * minutes * 1.2
    assert found.spent.seconds == pytest.approx(made.now)
    whole = 120 * made.costs.example(found.spent.bought.methods)
    assert made.now >= 60 * minutes * 0.7 or whole < 60 * minutes * 0.7
    assert found.examples >= min(WANTED, found.spent.bought.examples * 0.8)
    if minutes >= 10:
        assert found.examples >= WANTED


def test_a_killed_call_goes_on_and_more_minutes_go_on_from_there(
    reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(monkeypatch, costs(0.3), jitter=0.0)
    given, how = examples(90), {"out": tmp_path / "x", "clock": made.clock}

    def interrupt(stage: str, progress: Any) -> None:
        if stage == "ranks" and progress.examples == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        regard.doctor(reader, given, minutes=5, told=interrupt, **how)
    first, computed = made.now, made.computed
    found = regard.doctor(reader, given, minutes=5, **how)
    assert made.now <= 1.2 * 300
    assert found.spent.seconds == pytest.approx(made.now)
    assert found.examples > 10
    assert made.computed - computed < found.examples
    assert made.now > first
    before, computed = found.examples, made.computed
    done = regard.doctor(reader, given, minutes=5, **how)
    assert (done.examples, made.computed) == (before, computed)
    more = regard.doctor(reader, given, minutes=9, **how)
    assert more.examples > before
    assert 0.8 * 540 < made.now <= 1.2 * 540


def test_what_a_time_buys() -> None:
    one = costs(0.37, methods=12)
    short, usual, long = (bought(60 * m, one, 1000) for m in (4, 10, 40))
    assert short.methods == ("random", *doctors.METHODS[:2])
    assert usual.examples >= WANTED
    assert set(usual.methods) < set(long.methods)
    assert long.methods == tuple(one.methods)
    assert not long.dear
    assert set(usual.dear) == set(one.methods) - set(usual.methods)
    for got, minutes in ((short, 4), (usual, 10), (long, 40)):
        spent = got.examples * one.example(got.methods) + got.checked * one.check(got.methods) + one.spent
        assert spent <= 60 * minutes * (1 - SLACK)
    assert bought(600, one, 30).examples == 30
    assert bought(600, one, 1000, fixed=True).methods == tuple(one.methods)
    assert bought(600, one, 1000, fixed=True).examples < WANTED
    assert bought(10, one, 1000).examples == 0


def test_it_says_what_more_would_buy(reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(monkeypatch, costs(0.37, methods=12), jitter=0.0)
    found = regard.doctor(reader, examples(400), minutes=10, out=tmp_path / "x", clock=made.clock)
    shown = "\n".join(found.purchase)
    assert re.match(rf"9\.\d minutes of 10 minutes bought {found.examples} examples under 4 methods, ", shown)
    assert "one forward pass takes 370 ms" in shown
    assert "Left out as too dear for 50 examples: " in shown
    assert "Twice the time would buy " in shown
    assert "Four times the time would buy " in shown
    assert f"also {found.spent.later[2].methods[len(found.spent.bought.methods)]}" in shown


# -- what cannot be -------------------------------------------------------------------------------------------------------


def test_kind_errors(reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(why: str, kind: type = Misuse, **how: Any) -> None:
        with pytest.raises(kind, match=why):
            regard.doctor(**{"model": reader, "out": tmp_path / "x", **how})

    refused("data= is missing")
    refused("holds 1 example: the doctor needs two at the least", data=examples(1))
    refused("minutes is how long the doctor may take, above 0, not 0", data=examples(3), minutes=0)
    refused("examples is a whole number of at least 2, not 1", data=examples(3), examples=1)
    refused("the doctor's folder is on this machine", data=examples(3), out="s3://bucket/x")
    refused("did you mean 'gae'", UnknownName, data=examples(3), methods=["gea"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".hidden").touch()
    (tmp_path / "mine" / "thesis.txt").touch()
    refused(
        r"mine holds other files \(thesis\.txt\), and no visit of the doctor", out=tmp_path / "mine", data=examples(3)
    )
    bad = [Example(f"e{i}", Reading({}), error="InputError: it is broken") for i in range(3)]
    refused(
        "no example of given examples could be read; the first failed with InputError: it is broken", Failure, data=bad
    )
    Made(monkeypatch, costs(2.0))
    refused(r"1 minutes do not buy two examples of this model: give \d", data=examples(60), minutes=1)
    assert not (tmp_path / "x").exists()


def test_where_no_method_can_explain_the_model(reader: Any, tmp_path: Path, broken: str) -> None:
    def fails(context: Any) -> Any:
        raise Misuse("not this one")

    regard.register("never", fails)
    try:
        with pytest.raises(Failure, match="no method can explain this model on these data: not this one"):
            regard.doctor(reader, BERT, methods=["never"], minutes=1, out=tmp_path / "x")
    finally:
        METHODS.pop("never")
