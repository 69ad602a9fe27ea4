"""Every method under every protocol that applies, on the zoo's models and data: docs/results.md, tables and figures.

    python benchmarks/results.py                             # print the tables
    python benchmarks/results.py --write                     # and put them and the figures into docs/
    python benchmarks/results.py --only rationale --write    # some sections only
    python benchmarks/results.py --write --data ../shared/data/eraser_movies    # also ERASER's movie reviews
    python benchmarks/results.py --pages /tmp/pages          # also a page for each section, with every metric

Methods are those of `regard.methods()`, so a new row of that table is a new row here. ERASER's reviews are not ours to ship:
without `--data` the page keeps what the last run with them wrote. One thread; the numbers do not depend on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import measure
import numpy as np
import torch

import regard
from regard import Baseline, zoo
from regard.attribution.table import method as method_row
from regard.evaluation import (
    Document,
    Example,
    Perturbation,
    Rationale,
    Row,
    Sanity,
    Segmentation,
    evaluate_documents,
    evaluate_rows,
    examples_of,
    ranking,
    read_eraser,
    summaries,
)
from regard.evaluation.data.eraser import word_spans
from regard.evaluation.protocols.attribution_error import attribution_error as accounts
from regard.evaluation.protocols.protocol import MethodChoice, Protocol
from regard.evaluation.protocols.rationale import runs
from regard.evaluation.ranking import BEST, NEAR
from regard.evaluation.statistics import Interval, bootstrap, median, median_with_interval
from regard.report.evaluation import charts
from regard.report.evaluation import html as protocols

PAGE = measure.ROOT / "docs" / "results.md"
BLUR = Baseline.blur(8.0)
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "gae": {"": {}, "guided by a contrast": {"guide": "contrast"}},
    "corrected_attention": {s: {"sign": s} for s in ("positive", "negative", "absolute", "signed")}
    | {f"{s}, complete": {"sign": s, "correction": "complete"} for s in ("positive", "negative", "absolute")},
    "integrated_gradients": {"zero": {}, "blur": {"baseline": BLUR}},
    "lime": {"256 samples": {"samples": 256}},
    "shap_kernel": {"512 samples": {"samples": 512}},
}
"""Method -> name of a variant -> its options; all others are run as they are. A quarter of the samples drawn by default:
with all of them this page would take a day."""
TWINS = {"corrected_attention, positive", "alpha_avg", "taylor"}
"""The same maps as `gae`, `raw_attention` and, at zero, `input_x_gradient`: left out of a figure of few."""
PICTURES_ONLY = {"integrated_gradients, blur"}
MANY_STREAMS = {"heterogenous"}
"""Of one stream it is `corrected_attention` of the same sign, whatever its hops: docs/heterogenous.md has its numbers."""


class Variant(NamedTuple):
    """A method with options, as the tables call it."""

    label: str
    method: str
    options: dict[str, Any]


def variants(pictures: bool) -> list[Variant]:
    """Every method of the table with its variants, as far as they apply to pictures or texts."""
    every = [
        Variant(f"{m.name}, {name}" if name else m.name, m.name, options)
        for m in regard.methods()
        if m.name not in MANY_STREAMS and not m.only_of
        for name, options in OPTIONS.get(m.name, {"": {}}).items()
    ]
    return [v for v in every if pictures or v.label not in PICTURES_ONLY]


# -- what is asked -----------------------------------------------------------------------------------------------------


class Pictures:
    """zoo/vit-scenes: its bundled scenes of one item and of two."""

    def __init__(self) -> None:
        self.reader, scenes = regard.load("zoo/vit-scenes"), zoo.scenes()
        self.single = self._examples(scenes.select(scenes.single), 0, "one-")
        double = scenes.select(~scenes.single)
        self.double = [e for item in (0, 1) for e in self._examples(double, item, f"two-{item}-")]
        with torch.no_grad():
            inputs = {k: torch.cat([e.reading.inputs[k] for e in self.single]) for k in self.single[0].reading.inputs}
            predicted = self.reader.model(**inputs).logits.argmax(-1).tolist()
        self.wrong = [e for e, p in zip(self.single, predicted, strict=True) if e.label != p]

    def _examples(self, scenes: zoo.Scenes, item: int, name: str) -> list[Example]:
        """The item is asked for; the other one is the second class that is present."""
        return examples_of(
            self.reader.read(list(scenes.images)), labels=scenes.labels[:, item], masks=scenes.masks[:, item],
            others=scenes.labels[:, 1 - item], names=[f"{name}{i}" for i in range(len(scenes))],
            groups=[f"{name.partition('-')[0]}-{i}" for i in range(len(scenes))],
        )  # fmt: skip

    def rows(self, examples: Sequence[Example], asked: Sequence[Any]) -> list[Row]:
        """Every method under protocols."""
        return evaluated(self.reader.model, examples, asked, variants(True))


class Sentences:
    """zoo/bert-sentiment: the bundled sentences with their marked words."""

    def __init__(self) -> None:
        self.reader = regard.load("zoo/bert-sentiment")
        self.labels = [int(s.label == "positive") for s in zoo.sentences()]
        reading = self.reader.read([s.text for s in zoo.sentences()])
        self.examples = examples_of(reading, labels=self.labels)
        self.documents = [
            document(s, label, str(i)) for i, (s, label) in enumerate(zip(zoo.sentences(), self.labels, strict=True))
        ]

    def rows(self, examples: Sequence[Example], asked: Sequence[Any]) -> list[Row]:
        """Every method under protocols."""
        return evaluated(self.reader.model, examples, asked, variants(False))

    def judged(self, documents: Sequence[Document], asked: Rationale) -> list[Row]:
        """Every method beside what people marked."""
        some = variants(False)
        return labelled(evaluate_documents(self.reader, documents, [v[1:] for v in some], [asked]), some)


def document(sentence: zoo.Sentence, label: int, name: str) -> Document:
    """A sentence as a document; its marked words, wherever they stand in it, are the rationale."""
    words = word_spans(sentence.text)
    marked = [sentence.text[a:b].strip(".,!").lower() in {w.lower() for w in sentence.words} for a, b in words]
    return Document(name, sentence.text, label, words, tuple(runs(torch.tensor(marked))))


def evaluated(model: Any, examples: Sequence[Example], asked: Sequence[Any], some: Sequence[Variant]) -> list[Row]:
    return labelled(evaluate_rows(model, examples, [v[1:] for v in some], asked), some)


def labelled(rows: Sequence[Row], some: Sequence[Variant]) -> list[Row]:
    """Rows under the names of the tables."""
    names = {MethodChoice(v.method, v.options).title: v.label for v in some}
    return [dataclasses.replace(r, title=names[r.title]) for r in rows]


def every(items: Sequence[Any], count: int) -> list[Any]:
    """So many of them, evenly spread: data are sorted by class."""
    return list(items[:: max(1, len(items) // count)])[:count]


# -- tables ------------------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A metric of rows of one protocol."""

    head: str
    rows: Sequence[Row]
    metric: str


def table(columns: Sequence[Column]) -> str:
    """Methods × columns: means with intervals, the best in bold, ≈ for what is not surely different from it."""
    methods = list(dict.fromkeys(r.title for c in columns for r in c.rows))
    cells: list[Mapping[str, str]] = []
    for c in columns:
        marks = ranking(c.rows, c.metric)
        found = {s.title: s.value for s in summaries(c.rows) if s.metric == c.metric}
        cells.append({m: cell(found.get(m), marks.get(m, "")) for m in methods})
    head = ["method", *(c.head for c in columns)]
    body = [[m, *(own[m] for own in cells)] for m in methods]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def cell(value: Interval | None, mark: str) -> str:
    """0.41 [0.39, 0.43], marked."""
    if value is None or math.isnan(value.value):
        return "–"
    number, interval = str(value).split(" ", 1)
    return f"**{number}** {interval}" if mark == BEST else f"{number}{' ≈' if mark == NEAR else ''} {interval}"


def names(columns: Sequence[Column]) -> str:
    """Under a table: each column's full protocol name and metric, and who gave no number, and why."""
    lines = []
    for protocol in dict.fromkeys(c.rows[0].protocol for c in columns):
        own = [c for c in columns if c.rows[0].protocol == protocol]
        asked = "; ".join(f"{c.head}: `{c.metric}`, {len({r.example for r in c.rows})} examples" for c in own)
        lines.append(f"- `{protocol.name}`: {asked}")
    errors: dict[str, set[str]] = {}
    for c in columns:
        for r in (r for r in c.rows if r.error):
            errors.setdefault(r.error, set()).add(r.title)
    lines += [f"- no number for {', '.join(sorted(who))}: {what}" for what, who in errors.items()]
    return "\n".join(lines)


def section(columns: Sequence[Column]) -> str:
    return f"{table(columns)}\n\n{names(columns)}"


# -- protocols ---------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A section's text, its rows (for pages), and its figures: file -> what draws it."""

    text: str
    rows: Sequence[Row] = ()
    figures: Mapping[str, Callable[[Path], Any]] = MappingProxyType({})


@cache
def pictures() -> Pictures:
    return Pictures()


@cache
def segmented() -> list[Row]:
    """The scenes of one item; two sections tell of them."""
    return pictures().rows(pictures().single, [Segmentation()])


DROP = Perturbation("token", "drop")


@cache
def dropped() -> list[Row]:
    """Pixels and patches taken away; two sections tell of them."""
    asked = [dataclasses.replace(p, order=o) for p in (DROP, Perturbation()) for o in ("positive", "negative")]
    return pictures().rows(every(pictures().single, 48), asked)


def attribution_error(given: argparse.Namespace) -> Found:
    """Medians of ε/|T| at each method's own site."""
    columns, where = [], {}
    for name, of, some, raw, labels in _accounted():
        rows: list[Row] = []
        for v in some:
            options = {k: o for k, o in v.options.items() if k != "baseline"}
            made = accounts(
                of.reader.model, raw, torch.tensor(labels), methods=[(v.method, options)],
                baselines=[v.options.get("baseline")], explained=lambda _, *a, **o: of.reader.explain(*a, **o),  # noqa: B023
            )  # fmt: skip
            rows += [dataclasses.replace(r, title=v.label) for r in made if r.metric == "relative_error"]
        rows = [r for r in rows if r.title in {q.title for q in rows if not math.isnan(q.value)}]
        for r in rows:
            row = method_row(r.method)
            where[r.title] = (row.site, r.baseline, "yes" if row.decomposes else "no")
        columns.append((f"{name} ({len(raw)})", medians(rows)))
    head = ["method", "claims to add up", "site", "baseline", *(name for name, _ in columns)]
    body = [[m, claims, site, base, *(c.get(m, "–") for _, c in columns)] for m, (site, base, claims) in where.items()]
    lines = "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])
    return Found(
        f"{lines}\n\n- `attribution-error/logit of the true class`, the median over examples of ε/|T|; in brackets how many "
        "examples. Methods without a row have no unit of y, so no T."
    )


def _accounted() -> list[tuple[str, Any, list[Variant], list[Any], list[int]]]:
    scenes, sentences = zoo.scenes(), Sentences()
    rows = scenes.single.nonzero()[:, 0][::3]
    return [
        ("scenes", pictures(), variants(True), list(scenes.images[rows]), scenes.labels[rows, 0].tolist()),
        ("sentences", sentences, variants(False), [s.text for s in zoo.sentences()], sentences.labels),
    ]


def medians(rows: Sequence[Row]) -> dict[str, str]:
    """Method -> its cell. Marked by the bootstrap interval of the difference of two medians, examples paired."""
    of: dict[str, dict[str, float]] = {}
    for r in rows:
        of.setdefault(r.title, {})[r.example] = r.value
    values = {m: [v for v in own.values() if not math.isnan(v)] for m, own in of.items()}
    best = min(values, key=lambda m: float(np.median(values[m])))

    def mark(method: str) -> str:
        if np.median(values[method]) == np.median(values[best]):
            return BEST
        pairs = [(a, of[best][i]) for i, a in of[method].items() if not math.isnan(a + of[best][i])]
        found = bootstrap(pairs, lambda x, counts=None: median(x[:, 0], counts) - median(x[:, 1], counts))
        return NEAR if found.low <= 0 <= found.high else ""

    return {m: cell(median_with_interval(v), mark(m)) for m, v in values.items()}


def perturbation(given: argparse.Namespace) -> Found:
    """Pixels and patches of scenes."""
    rows = dropped()
    columns = [
        Column(f"{unit}, {order} {arrow}", under(rows, dataclasses.replace(of, order=order)), "auc_probability")
        for unit, of in (("patches", DROP), ("pixels", Perturbation()))
        for order, arrow in (("positive", "↓"), ("negative", "↑"))
    ]
    first = columns[0].rows
    ranked = [line.title for line in charts.lines(first, "probability") if line.title not in TWINS]
    few = [r for r in first if r.title in {*ranked[-6:], *charts.FLOORS}]
    title = "Patches dropped, the most relevant first: the floors and the six lowest areas"
    return Found(section(columns), rows, {
        "results-perturbation.png": lambda p: charts.curves(few, "probability", p, title),
        "results-perturbation-differences.png": lambda p: charts.forest(
            first, "auc_probability", p, "Patches dropped, positive: less raw attention", against="raw_attention"
        ),
    })  # fmt: skip


def words(given: argparse.Namespace) -> Found:
    """Words of sentences."""
    of = Sentences()
    asked = [Perturbation("word", "drop", order) for order in ("positive", "negative")]
    rows = of.rows(of.examples, asked)
    heads = ("words, positive ↓", "words, negative ↑")
    return Found(section([Column(h, under(rows, p), "auc_probability") for h, p in zip(heads, asked)]), rows)


def segmentation(given: argparse.Namespace) -> Found:
    """Scenes of one item and of two."""
    one, two = segmented(), pictures().rows(pictures().double, [Segmentation()])
    columns = [
        Column(f"{head}, {short} ↑", rows, metric)
        for head, rows in (("one item", one), ("two items", two))
        for short, metric in (("pointing", "pointing"), ("IoU", "iou"), ("AP", "ap"))
    ]
    title = "Two items, pointing: less raw attention"
    figure = lambda p: charts.forest(two, "pointing", p, title, against="raw_attention")  # noqa: E731
    return Found(section(columns), one, {"results-two-items.png": figure})


def rationale(given: argparse.Namespace) -> Found:
    """The marked words of the sentences."""
    of = Sentences()
    return _rationale(of.judged(of.documents, Rationale(top="evidence", shares=(0.1, 0.2, 0.5))))


def eraser(given: argparse.Namespace) -> Found:
    """ERASER's movie reviews."""
    documents = every(read_eraser(given.data, "test"), given.documents)
    return _rationale(Sentences().judged(documents, Rationale(top="evidence")))


def _rationale(rows: list[Row]) -> Found:
    shown = {"auprc": "AUPRC ↑", "token_f1": "token F1 ↑", "comprehensiveness": "comprehensiveness ↑",
             "sufficiency": "sufficiency ↓"}  # fmt: skip
    right = len({r.example for r in rows if r.title == "random" and r.right})
    text = section([Column(head, rows, metric) for metric, head in shown.items()])
    return Found(f"{text}\n- the model has {right} of {len({r.example for r in rows})} right", rows)


def sanity(given: argparse.Namespace) -> Found:
    """Parameters drawn anew, two classes, the same call twice, padding."""
    of, sentences = pictures(), Sentences()
    scenes = of.rows(every(of.single, 8), asked := [Sanity("cascade"), Sanity("repeat")])
    classes = of.rows(every(of.double[: len(of.double) // 2], 28), [Sanity("classes")])
    texts = sentences.rows(every(sentences.examples, 8), [*asked, Sanity("padding")])
    cascade, repeat, padding = (Sanity(c) for c in ("cascade", "repeat", "padding"))
    columns = [
        Column("scenes, cascade", under(scenes, cascade), "mean"),
        Column("sentences, cascade", under(texts, cascade), "mean"),
        Column("two classes", classes, "similarity"),
        Column("scenes, repeat", under(scenes, repeat), "relative"),
        Column("sentences, repeat", under(texts, repeat), "relative"),
        Column("padding", under(texts, padding), "relative"),
    ]
    return Found(section(columns), [*scenes, *classes])


def consistency(given: argparse.Namespace) -> Found:
    """Right and wrong apart."""
    of, found = pictures(), segmented()
    wrong = {e.name for e in of.wrong}
    first = under(dropped(), DROP)
    missed = of.rows(of.wrong, asked := [DROP, dataclasses.replace(DROP, explained="true")])
    columns = [
        Column("IoU, right ↑", [r for r in found if r.example not in wrong], "iou"),
        Column("IoU, wrong ↑", [r for r in found if r.example in wrong], "iou"),
        Column("patches, right ↓", [r for r in first if r.example not in wrong], "auc_probability"),
        Column("patches, wrong ↓", under(missed, asked[0]), "auc_probability"),
        Column("patches, wrong, true class ↓", under(missed, asked[1]), "auc_probability"),
    ]
    return Found(section(columns), [*found, *[r for r in first if r.example not in wrong], *missed])


def under(rows: Sequence[Row], protocol: Protocol) -> list[Row]:
    return [r for r in rows if r.protocol == protocol]


SECTIONS = {
    "attribution-error": attribution_error, "perturbation": perturbation, "words": words, "segmentation": segmentation,
    "rationale": rationale, "sanity": sanity, "consistency": consistency,
}  # fmt: skip


def main() -> None:
    """Run the sections that are asked for; write them and their figures if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[*SECTIONS, "eraser"])
    parser.add_argument("--data", type=Path, help="the folder of ERASER's movie reviews (jsonl)")
    parser.add_argument("--documents", type=int, default=20, help="how many reviews")
    parser.add_argument("--pages", type=Path, help="a folder for one page a section")
    given = parser.parse_args()
    asked = SECTIONS | ({"eraser": eraser} if given.data else {})
    if given.only:
        asked = {name: asked[name] for name in given.only if name in asked or parser.error("eraser needs --data")}
    torch.set_num_threads(1)
    started = time.process_time()
    for name, run in asked.items():
        found = run(given)
        print(f"\n## {name} ({time.process_time() - started:.0f} s so far)\n\n{found.text}", flush=True)
        if given.write:
            measure.write(name, found.text, PAGE)
            for file, draw in found.figures.items():
                draw(PAGE.parent / file)
        if given.pages and found.rows:
            protocols.write_page(found.rows, given.pages / f"{name}.html", f"zoo: {name}", against="raw_attention")


if __name__ == "__main__":
    main()
