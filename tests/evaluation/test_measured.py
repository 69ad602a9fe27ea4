"""Rows as columns: what a store reads into arrays is what its rows say one by one, and so is all that is made of them."""

import dataclasses
import json
import math

import numpy as np
import pytest

from regard.errors import Misuse
from regard.evaluation import Perturbation, Segmentation, consistency, differences, ranking, summaries
from regard.evaluation.leaderboard import leaderboard
from regard.evaluation.measured import ABSENT, MethodColumns, measured, shared
from regard.evaluation.plan import Plan
from regard.evaluation.protocols.protocol import MethodChoice, Row
from regard.evaluation.store import results
from regard.evaluation.store.columns import as_parquet
from regard.evaluation.store.results import Results
from regard.report.evaluation import charts
from regard.report.evaluation.html import page
from support.runs import small

METHODS = [MethodChoice("random"), MethodChoice("gae"), MethodChoice("corrected_attention", {"sign": "signed"})]
PROTOCOLS = [Perturbation("token", "drop", steps=(0.3, 0.6), auc=(0, 0.6)), Segmentation()]
METRICS = {"perturbation": ("auc_probability", "aopc"), "segmentation": ("iou", "ap", "pointing")}
SIZE = 4


def rows_of(count, seed=0):
    """Rows such as real runs have on bad days: errors, numbers that are undefined, groups, no labels, curves with a hole."""
    draw = np.random.default_rng(seed)
    out = []
    for choice in METHODS:
        for protocol in PROTOCOLS:
            for i in range(count):
                about = choice.columns() | {
                    "group": f"scene {i // 2}" if i % 5 else "",
                    "label": None if i % 7 == 3 else i % 2,
                }
                if draw.random() < 0.15:
                    out.append(Row(protocol, f"e{i}", error=f"Misuse: no {i % 3}", **about))
                    continue
                about |= {"predicted": int(draw.random() < 0.5), "seconds": 0.1}
                values = {m: float(draw.normal()) for m in METRICS[protocol.kind]}
                if draw.random() < 0.2:
                    values[next(iter(values))] = math.nan
                if draw.random() < 0.2:
                    values.pop(next(iter(values)))
                values |= {n: float(draw.integers(1, 9)) for pairs in protocol.sums.values() for p in pairs for n in p}
                hole = draw.random() < 0.2
                points = {
                    "probability": [(x, math.nan if hole and x else float(draw.random())) for x in (0.0, 0.3, 0.6)]
                }
                out += protocol.rows(f"e{i}", values, points if protocol is PROTOCOLS[0] else None, **about)
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run's folder with such rows: the manifest of a real one, and six shards."""
    out, count = tmp_path_factory.mktemp("runs") / "made", 23
    small(out, examples=2, methods=["random"])
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["plan"] |= {
        "count": count,
        "shard": SIZE,
        "methods": [m.columns() for m in METHODS],
        "protocols": [{"name": p.name, "kind": type(p).__name__, "choices": dataclasses.asdict(p)} for p in PROTOCOLS],
    }
    (out / "manifest.json").write_text(json.dumps(manifest))
    numbers, made, plan = {f"e{i}": i for i in range(count)}, rows_of(count), Plan(**manifest["plan"])
    for shard in plan.shards:
        own = [r for r in made if shard.first <= numbers[r.example] < shard.last]
        whole = as_parquet(own, numbers, shard.number, {"plan": plan.digest, "shard": shard.number})
        (out / "rows" / shard.name).write_bytes(whole)
    return out


def same(a, b):
    """Whether two methods' columns say the same."""
    assert (a.key, list(a.values), list(a.points)) == (b.key, list(b.values), list(b.points))
    assert (list(a.examples.names), list(a.examples.drawn_with)) == (
        list(b.examples.names),
        list(b.examples.drawn_with),
    )
    assert a.errors == b.errors
    columns = [(a.sides, b.sides), (a.good, b.good)]
    for kind in ("values", "points"):
        columns += [
            pair for name, of in getattr(a, kind).items() for pair in zip(of, getattr(b, kind)[name], strict=True)
        ]
    for one, other in columns:
        np.testing.assert_array_equal(one, other)


def test_a_store_reads_the_columns_that_its_rows_have(store):
    found = Results(store)
    expected = measured(found.rows())
    assert len(expected) == len(METHODS) * len(PROTOCOLS)
    assert sum(len(m.errors) for m in expected) > 5
    assert any((m.sides == ABSENT).any() for m in found.measured(PROTOCOLS[0].name)) is False
    for protocol in PROTOCOLS:
        own = found.measured(protocol.name)
        assert [m.title for m in own] == [c.title for c in METHODS]
        for one, other in zip(own, [m for m in expected if m.protocol == protocol], strict=True):
            same(one, other)
    (one,) = found.measured(PROTOCOLS[1].name, ["gae"])
    same(one, next(m for m in expected if m.protocol == PROTOCOLS[1] and m.title == "gae"))


def test_the_rows_are_those_that_were_written(store):
    """In the order of the plan, whatever the files are called."""
    made = {(r.title, r.protocol.name, r.example, r.metric, r.x): r for r in rows_of(23)}
    found = Results(store).rows()
    assert [(r.title, r.protocol.name, r.example, r.metric, r.x) for r in found] == [*made]
    assert all(r.value == w.value or math.isnan(w.value) for r, w in zip(found, made.values(), strict=True))


def test_summaries_and_pages_of_columns_are_those_of_rows(store, monkeypatch):
    found = Results(store)
    rows, columns = found.rows(), [m for p in PROTOCOLS for m in found.measured(p.name)]
    assert {str(s) for s in summaries(rows, split=True)} == {str(s) for s in summaries(columns, split=True)}
    assert [str(s) for s in consistency(rows)][:5] == [
        str(s) for s in consistency([m for m in columns if m.title == "random"])
    ][:5]
    assert [str(s) for s in found.summaries] == [str(s) for s in summaries(rows)]
    own = [r for r in rows if r.protocol == PROTOCOLS[1]]
    metric = PROTOCOLS[1].headlines[0]
    assert differences(own, metric) == differences(found.measured(PROTOCOLS[1].name), metric)
    assert ranking(own, metric) == ranking(found.measured(PROTOCOLS[1].name), metric) != {}
    assert page(rows) == page(columns) == page(found.measured(p.name) for p in PROTOCOLS)
    one_by_one = Results(store)
    monkeypatch.setattr(results, "AT_ONCE", 1)
    assert one_by_one.summaries == found.summaries


def test_a_literal_summary(store):
    """Means, counts of what is undefined, and errors, by loops over rows."""
    rows = Results(store).rows()
    for s in summaries(rows, split=True):
        own = [r for r in rows if (r.protocol, r.title) == (s.protocol, s.title)]
        if s.split != "all":
            own = [r for r in own if {True: "right", False: "wrong", None: "unknown"}[r.right] == s.split]
        assert s.errors == sum(bool(r.error) for r in own)
        values = [r.value for r in own if r.metric == s.metric and r.x is None and not math.isnan(r.value)]
        judged = {r.example for r in own if not r.error}
        if s.metric and s.metric not in s.protocol.sums and s.metric not in s.protocol.medians:
            mean = np.mean(values) if values else math.nan
            assert s.value.value == pytest.approx(mean, rel=1e-12, nan_ok=True)
            assert (s.examples, s.undefined) == (len(values), len(judged) - len(values))


def test_examples_of_several_runs_are_known_by_their_names():
    """Another run has others, in another order; groups go with names."""
    rows = rows_of(12)
    first = measured([r for r in rows if r.title == "random"])
    second = measured([r for r in reversed(rows) if r.title == "gae" and r.example not in ("e0", "e1")])
    whole = {m.key: m for m in measured(rows)}
    for m in shared([*first, *second]):
        names = np.array(m.examples.names)
        assert set(names) == {f"e{i}" for i in range(12)}
        for metric, known in m.values.items():
            expected = {
                r.example: r.value for r in rows if (r.protocol, r.title, r.metric) == (m.protocol, m.title, metric)
            }
            of = {n: v for n, v in zip(names[known.of], known.values, strict=True) if not math.isnan(v)}
            assert of == {n: v for n, v in expected.items() if n in names[m.good] and not math.isnan(v)}
        other = whole[m.key].examples
        together = dict(zip(names, m.examples.drawn_with, strict=True))
        assert together == dict(zip(other.names, other.drawn_with, strict=True))


def test_two_stores_make_the_leaderboard_of_one(store):
    run = Results(store).as_run()
    parts = [
        dataclasses.replace(
            run, name=title, titles=[title], rows=lambda p, title=title: Results(store).measured(p.name, [title])
        )
        for title in run.titles
    ]
    (one,), (several,) = leaderboard([run]), leaderboard(parts)
    assert [c.standings for c in one.contests] == [c.standings for c in several.contests]


def test_curves_that_do_not_fit_together_are_refused():
    def curves_of(*points):
        return [
            r for e, p in zip("ab", points, strict=True) for r in protocol.rows(e, {"aopc": 0.5}, {"kept": p}, **about)
        ]

    (protocol, *_), about = PROTOCOLS, METHODS[0].columns()
    longer = curves_of([(0.0, 0.5), (0.3, 0.5)], [(0.0, 0.5), (0.3, 0.5), (0.6, 0.5)])
    with pytest.raises(Misuse, match="kept has 2 points of one example and 3 of another"):
        charts.curves(longer, "kept")
    with pytest.raises(Misuse, match="the points of kept do not lie at the same places"):
        charts.curves(curves_of([(0.0, 0.5), (0.3, 0.5)], [(0.0, 0.5), (0.6, 0.5)]), "kept")
    assert summaries(longer)[0].value.value == 0.5  # numbers do not mind


def test_points_in_another_order_are_the_same_curve(store):
    """Whoever copies rows by a query may bring them into another order."""
    rows = Results(store).rows()
    mixed = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    for one in measured(rows):
        other = next(m for m in measured(mixed) if m.key == one.key)
        for name in one.points:
            of, x, y = one.curve(name)
            of_other, x_other, y_other = other.curve(name)
            assert x.tolist() == x_other.tolist() == sorted(x)
            by = dict(zip([one.examples.names[i] for i in of], y.tolist(), strict=True))
            found = dict(zip([other.examples.names[i] for i in of_other], y_other.tolist(), strict=True))
            assert str(by) == str({name: found[name] for name in by})


def test_nothing_measured_is_nothing():
    assert measured([]) == []
    assert summaries([]) == []
    (alone,) = measured([Row(PROTOCOLS[1], "x", title="a", error="no")])
    assert isinstance(alone, MethodColumns)
    assert (dict(alone.values), dict(alone.points), alone.errors, alone.good.tolist()) == ({}, {}, [(0, "no")], [False])
