"""The leaderboard: paired tests beside those of scipy, who is best, the same numbers from a store as in memory."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.stats

import regard
from regard.errors import InputError, Misuse
from regard.evaluation import AttributionError, Perturbation, Rationale, Row, Segmentation, evaluate_rows
from regard.evaluation.data.bundled import Bundled
from regard.evaluation.engines import costs as measuring
from regard.evaluation.engines.work import Work
from regard.evaluation.leaderboard import Board, Cost, RunRows, leaderboard, ordered
from regard.evaluation.protocols.protocol import MethodChoice
from regard.evaluation.protocols.table import PROTOCOLS
from regard.evaluation.protocols.words import asked_of, method_of
from regard.evaluation.statistics import holm, mean, median, ratio_of_sums, swapping, swappings
from regard.evaluation.store.command import command_of
from regard.evaluation.store.results import Results
from regard.report.leaderboard import markdown, page, write_leaderboard
from support.records import Made
from support.runs import METHODS, SMALL, small


@dataclasses.dataclass(frozen=True)
class Scored(Made):
    """A made-up protocol with two metrics."""

    better: ClassVar[dict[str, int]] = {"gain": 1, "loss": -1}
    medians: ClassVar[frozenset[str]] = frozenset(["loss"])


def rows(values: dict[str, Sequence[float]], metric: str = "gain", protocol: Any = None) -> list[Row]:
    """A row an example and method; NaN where there is none."""
    asked = Scored() if protocol is None else protocol
    return [
        Row(asked, f"e{i}", metric, v, method=title, title=title)
        for title, own in values.items()
        for i, v in enumerate(own)
    ]


# -- tests in pairs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", [mean, median])
def test_a_paired_test_is_that_of_scipy(statistic: Any) -> None:
    draw = np.random.default_rng(1)
    a, b = draw.normal(0.4, 1, 9), draw.normal(0, 1, 9)

    def apart(x: Any, y: Any, axis: int = -1) -> Any:
        return np.abs(statistic(np.moveaxis(x, -1, 0)) - statistic(np.moveaxis(y, -1, 0)))

    found = scipy.stats.permutation_test(
        (a, b), apart, permutation_type="samples", n_resamples=np.inf, alternative="greater", vectorized=True
    )
    assert swapping(a, b, statistic) == pytest.approx(found.pvalue)
    assert swapping(a, b, statistic) == swapping(b, a, statistic)


def test_a_test_by_random_swaps_comes_near_the_exact_one() -> None:
    draw = np.random.default_rng(2)
    a, b = draw.normal(0.5, 1, 12), draw.normal(0, 1, 12)
    exact, drawn = swapping(a, b), swapping(a, b, draws=4000)
    assert 0.01 < exact < 0.5
    assert drawn == pytest.approx(exact, abs=0.03)
    assert drawn != exact


def test_samples_of_a_group_trade_together() -> None:
    a, b = np.array([1.0, 1.0, 1.0, 1.0, 2.0, 2.0]), np.zeros(6)
    assert swapping(a, b) == 2 / 2**6
    assert swapping(a, b, groups=["x", "x", "x", "y", "y", "y"]) == 2 / 2**2


def test_sums_are_tested_as_they_are_divided() -> None:
    a, b = np.array([[3.0, 4], [1, 2], [5, 6]]), np.array([[1.0, 4], [1, 3], [2, 6]])
    apart = []
    for traded in itertools.product([False, True], repeat=3):
        x, y = (np.array([v if t else u for u, v, t in zip(p, q, traded)]) for p, q in ((a, b), (b, a)))
        apart.append(abs(x[:, 0].sum() / x[:, 1].sum() - y[:, 0].sum() / y[:, 1].sum()))
    assert swapping(a, b, ratio_of_sums) == np.mean(np.array(apart) >= apart[0] - 1e-12)


@pytest.mark.parametrize("count", [5, 40])
def test_many_tests_by_the_same_tosses_are_those_one_by_one(count: int) -> None:
    """All outcomes of few samples, random ones of many; against tosses written out."""
    less = np.random.default_rng(count).normal(0.3, 1, (count, 3)).round(1)
    groups = [i // 2 for i in range(count)]
    found = swappings(less, 7, groups, 500)
    assert found.tolist() == [swappings(less[:, [i]], 7, groups, 500)[0] for i in range(3)]
    members = -(-count // 2)
    if count == 5:
        tosses = np.array([*itertools.product([False, True], repeat=members)])
    else:
        tosses = np.random.default_rng(7).random((500, members)) < 0.5
    signs = np.where(tosses[:, groups], -1, 1)
    far = [np.abs(signs @ column) >= abs(column.sum()) - 1e-9 for column in less.T]
    expected = [f.mean() if count == 5 else (1 + f.sum()) / 501 for f in far]
    assert found.tolist() == pytest.approx(expected)


def test_equal_numbers_are_no_difference() -> None:
    assert swapping(np.ones(5), np.ones(5)) == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.04], 6).tolist() == pytest.approx([0.06, 0.2])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([]).tolist() == []


# -- who is best -------------------------------------------------------------------------------------------------------


def test_methods_stand_in_order_and_the_worse_are_told_from_the_near() -> None:
    draw = np.random.default_rng(0)
    easy = draw.normal(0, 1, 40)
    found = ordered(rows({
        "bad": (easy - 2).tolist(), "good": (easy + 0.02 * draw.normal(0, 1, 40)).tolist(), "best": (easy + 0.001).tolist(),
        "none": [math.nan] * 40,
    }), "gain")  # fmt: skip
    assert [s.title for s in found][2:] == ["bad", "none"]
    assert [s.place for s in found] == ["best", "near", "", ""]
    first, second, third, last = found
    assert (first.behind, first.p, last.behind, last.p, last.undefined) == (None, None, None, None, 40)
    assert second.p is not None
    assert third.p is not None
    assert second.p > 0.05 >= third.p
    assert third.behind is not None
    assert third.behind.value == pytest.approx(third.value.value - first.value.value)


def test_where_low_is_better_the_lowest_is_first() -> None:
    found = ordered(rows({"high": [3.0, 4, 5, 9], "low": [1.0, 2, 3, 100]}, "loss"), "loss")
    assert [(s.title, s.value.value, s.place) for s in found] == [("low", 2.5, "best"), ("high", 4.5, "near")]


def test_equal_methods_are_all_best() -> None:
    found = ordered(rows({"one": [1.0, 2], "two": [1.0, 2]}), "gain")
    assert [s.place for s in found] == ["best", "best"]


def test_only_examples_that_both_have_are_compared() -> None:
    few = [*rows({"a": [5.0, 1, 9]}), *rows({"b": [math.nan, 2, 3]})]
    _, b = ordered(few, "gain")
    assert (b.title, b.examples, b.undefined, b.behind and b.behind.value) == ("b", 2, 1, -2.5)
    other = dataclasses.replace(few[0], example="another", title="c")
    assert next(s for s in ordered([*few, other], "gain") if s.title == "a").behind is None


def test_a_metric_without_a_better_side_has_no_order() -> None:
    with pytest.raises(Misuse, match="better high or low"):
        ordered(rows({"a": [1.0]}, "size"), "size")


@pytest.mark.long
def test_a_false_alarm_is_rare_though_the_best_is_chosen_by_the_same_numbers() -> None:
    """Eight methods that are all alike: in at most 5 % of contests may any be called worse (Holm for the best's pairs alone
    would do so in some 12 %)."""
    draw, alarms = np.random.default_rng(3), 0
    for _ in range(150):
        found = ordered(rows({f"m{i}": draw.normal(0, 1, 30).tolist() for i in range(8)}), "gain")
        alarms += any(s.p is not None and s.p <= 0.05 for s in found)
    assert alarms <= 15  # of 150, with 5 %: more than 15 in 1 of 500


# -- the same numbers from a store -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("board") / "whole"
    small(out)
    return out


@pytest.fixture(scope="module")
def boards(stored: Path) -> list[Board]:
    return leaderboard([Results(stored).as_run()])


def test_a_store_says_what_the_runner_in_memory_says(stored: Path, boards: list[Board]) -> None:
    reader, data = regard.load("zoo/vit-scenes"), Bundled(name="zoo/vit-scenes")
    examples = [data.example(reader, i) for i in range(SMALL["examples"])]
    made = evaluate_rows(reader.model, examples, METHODS, SMALL["protocols"], batch=SMALL["batch"])
    run = Results(stored).as_run()
    memory = dataclasses.replace(run, rows=lambda protocol: [r for r in made if r.protocol == protocol])
    (here,), (there,) = leaderboard([memory]), boards
    assert here.contests == there.contests
    assert [c.protocol.kind for c in there.contests] == ["segmentation", "perturbation", "attribution-error"]
    assert markdown([here]) == markdown([there])
    assert page([here]) == page([there])


def test_runs_of_one_model_are_joined_and_a_method_twice_is_refused(stored: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    small(other, methods=["raw_attention"])
    one, two = Results(stored).as_run(), Results(other).as_run()
    (board,) = leaderboard([one, two])
    assert {s.title for s in board.contests[0].standings["iou"]} == {*one.titles, "raw_attention"}
    with pytest.raises(Misuse, match="both judge random by"):
        leaderboard([one, dataclasses.replace(one, name="again")])
    changed = dataclasses.replace(two, same={**two.same, "the model": "another"})
    with pytest.raises(Misuse, match="but the model is not the same"):
        leaderboard([one, changed])


def test_all_that_is_shown_has_words() -> None:
    """Each metric that has a better side is explained in the legend."""
    for made in PROTOCOLS.values():
        assert {m for m in made.better if m not in made.meanings} == set(), made
    assert set(Perturbation.areas.values()) <= set(Perturbation.meanings)


HOSTILE = "a|b<script>alert(1)</script>`x`\n# y"


def test_names_are_no_markup(tmp_path: Path, boards: list[Board]) -> None:
    run = RunRows(
        HOSTILE, HOSTILE, HOSTILE, [Scored(HOSTILE)], [HOSTILE, "random"],
        lambda p: rows({HOSTILE: [1.0, 2, 3], "random": [0.0, 0, 1]}, protocol=p), 3, 4, command=HOSTILE,
        costs={HOSTILE: Cost(0.1, None, 8, 1, HOSTILE)}, versions={HOSTILE: HOSTILE},
    )  # fmt: skip
    made = leaderboard([run])
    text, html = markdown(made), page(made)
    outside = "".join(text.split("```")[::2])
    assert "<script" not in outside.replace("`made/a\\|b<script>alert(1)</script>'x' # y`", "")
    assert "\n# y" not in text
    tables = [line for line in text.splitlines() if line.startswith("|") and "script" in line]
    assert tables
    for line in tables:
        assert line.replace("\\|", "").count("|") in (4, 6, 8)
    assert "<script" not in html
    assert "3 of 4 examples are done" in html
    assert write_leaderboard(made, tmp_path / "x.md").read_text("utf-8") == text
    assert write_leaderboard(made, tmp_path / "x.html").read_text("utf-8") == html


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_run_says_how_it_is_made_again(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from regard.cli import commands

    said = command_of(Results(stored).plan, str(stored))
    assert said.startswith("regard evaluate zoo/vit-scenes --methods 'random,corrected_attention(sign=signed)'")
    import shlex

    again = CliRunner().invoke(commands.app, shlex.split(said)[1:])
    assert again.exit_code == 0, again.output
    assert "6 of 6 examples were done before" in again.stderr


@pytest.mark.parametrize(
    "protocol",
    [Perturbation("token", "drop", "negative", steps=(0.1, 0.5), auc=(0, 0.5)), Segmentation(explained="predicted"),
     AttributionError(), Rationale(top="evidence", windows=2)],
)  # fmt: skip
def test_protocols_are_spelled_as_they_are_read(protocol: Any, stored: Path) -> None:
    plan = json.loads(json.dumps(Results(stored).plan))
    choices = {f.name: getattr(protocol, f.name) for f in dataclasses.fields(protocol)}
    plan["protocols"] = [
        {"kind": type(protocol).__name__, "name": protocol.name, "choices": json.loads(json.dumps(choices))}
    ]
    plan["methods"] = [{"method": "revised_ig", "title": "x", "options": {"site": "block[1]", "steps": 4}}]
    import shlex

    words = shlex.split(command_of(plan, "out"))
    assert method_of(words[words.index("--methods") + 1]).options == {"site": regard.Site.block(1), "steps": 4}
    from regard.called import parts_of

    data = "zoo/bert-sentiment" if isinstance(protocol, Rationale) else "zoo/vit-scenes"
    read = asked_of(parts_of(words[words.index("--protocols") + 1]), "image", Bundled(name=data))
    assert read == [protocol]


def test_what_has_no_words_has_no_command(stored: Path) -> None:
    plan = json.loads(json.dumps(Results(stored).plan))
    plan["methods"][0]["options"] = {"baseline": "my own (a1b2)"}
    assert command_of(plan, "out") == ""
    plan = json.loads(json.dumps(Results(stored).plan))
    plan["model"] = {"name": "ViTForImageClassification", "weights": "00"}
    assert command_of(plan, "out") == ""


# -- costs -------------------------------------------------------------------------------------------------------------


def work(*methods: str) -> Work:
    return Work("zoo/vit-scenes", Bundled(name="zoo/vit-scenes"), [MethodChoice(m) for m in methods], [], "")


def test_a_cost_is_of_maps_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "EXAMPLES", 2)
    monkeypatch.setattr(measuring, "SCANNED", 3)
    found = measuring.cost_of(work(), MethodChoice("random"))
    assert found is not None
    assert (found.examples, found.threads) == (2, 1)
    assert 0 < found.seconds < 10
    assert found.memory is None or 0 <= found.memory < 1 << 30
    assert measuring.cost_of(work(), MethodChoice("token_activation_map")) is None


@pytest.mark.skipif(not measuring.CLEAR.exists(), reason="the peak of the resident set is known on Linux alone")
def test_a_peak_is_seen_and_an_earlier_one_hides_nothing() -> None:
    import torch

    size = 1 << 25
    for _ in range(2):
        before = measuring._set_back()
        assert before is not None
        torch.ones(size, dtype=torch.uint8).sum()
        peak = measuring._kilobytes("VmHWM")
        assert peak is not None
        assert peak - before > 0.9 * size / 1024


def test_costs_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def told(_work: Work, tell: Any) -> dict[str, Cost]:
        asked.append(1)
        tell("random")
        return {"random": Cost(0.5, 12_000_000, 8, 1, "here")}

    monkeypatch.setattr("regard.evaluation.evaluate.measured", told)
    seen: list[Any] = []
    small(tmp_path / "x", examples=2, methods=["random"], costs=True, told=seen.append)
    assert seen[-1].measuring == "random"
    small(tmp_path / "x", examples=2, methods=["random"], costs=True)
    assert asked == [1]
    run = Results(tmp_path / "x").as_run()
    assert run.costs == {"random": Cost(0.5, 12_000_000, 8, 1, "here")}
    assert "| random | 0.5 s | 12 MB |" in markdown(leaderboard([run]))
    (tmp_path / "x" / "costs.json").write_text('{"format": "regard-costs-1", "costs": {"random": {"x": 1}}}')
    with pytest.raises(InputError, match="remove it, and measure them again"):
        Results(tmp_path / "x").as_run()


@pytest.mark.long
def test_each_method_has_a_process_of_its_own() -> None:
    seen: list[str] = []
    found = measuring.costs(work("random", "token_activation_map", "gae"), seen.append)
    assert seen == ["random", "token_activation_map", "gae"]
    assert [*found] == ["random", "gae"]
