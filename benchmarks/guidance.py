"""Does guidance by contrast put more of the map on the item that is asked for? Every sign, correction and internal guide.

    python benchmarks/guidance.py             # print the tables
    python benchmarks/guidance.py --write     # and put them into docs/results.md

On the bundled scenes of two items each item is asked for in turn: `share` is how much of the map's positive part lies on the
item's exact pixels. "best other class" is `guide="contrast"`, all that a user can ask who knows no more than the class; "other
item" is a contrast with the class of the item beside it. "its own map" is the control: what is guided by itself is sharper,
whatever it is of. Two rows explain the contrast itself, unguided. On the bundled sentences, words that people marked.
Differences are paired, and scenes drawn with both questions.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import measure
import torch
from results import PAGE, Pictures, Sentences, Variant, cell, labelled

from regard import Guide, Target
from regard.api.explain import explain_reading
from regard.evaluation import Example, Rationale, Row, evaluate_documents, evaluate_rows, ranking, summaries
from regard.evaluation.protocols.protocol import ExampleMaps, GivenMaps, Protocol
from regard.evaluation.protocols.segmentation import average_precision, on_picture, pointing
from regard.evaluation.summaries import differences

SHOWN_C, SHOWN_APART = "y_c on the canvas", "y_c − y_e on the canvas: the guided map"
SIGNS = ("positive", "negative", "absolute", "signed")
CORRECTIONS = ("incomplete", "complete")
UNGUIDED = "positive, incomplete (gae), unguided"
BEST_OTHER, OTHER_ITEM, OWN = "contrast with the best other class", "contrast with the other item", "its own map"
OTHER_CLASS = "contrast with the other class"


@dataclass(frozen=True)
class OnItem(Protocol):
    """How much of a map's positive part lies on the item; whether its largest score does; average precision."""

    kind: ClassVar[str] = "on-item"
    question: ClassVar[str] = "How much of the map lies on the item that is asked for?"
    better: ClassVar[Mapping[str, int]] = {"share": 1, "pointing": 1, "ap": 1}

    @property
    def name(self) -> str:
        """The full name."""
        return "on-item/original/true/bilinear/share=of the positive part"

    def run(self, maps: ExampleMaps, example: Example) -> list[Row]:
        """The rows of one example."""
        explanation, explained = maps.of(example, "true")
        assert example.mask is not None
        scores, seen = on_picture(explanation, example.mask.shape)
        values, truth = scores[seen], example.mask[seen]
        above = values.clamp(min=0)
        found = {
            "share": float(above[truth].sum() / above.sum()) if bool(above.any()) else 0.0,
            "pointing": pointing(values, truth),
            "ap": average_precision(values, truth),
        }
        return self.rows(example.name, found, label=example.label, explained=explained)


def named(sign: str, correction: str, guide: str) -> str:
    """What the table calls a row."""
    gae = " (gae)" if (sign, correction) == ("positive", "incomplete") else ""
    return f"{sign}, {correction}{gae}, " + (guide or "unguided")


def rows_of(of: Pictures) -> list[Row]:
    """Every sign × correction, unguided and by each guide; and the contrasts themselves, unguided."""
    rows: list[Row] = []
    for sign in SIGNS:
        for correction in CORRECTIONS:
            for guide in ("", OWN, BEST_OTHER, OTHER_ITEM):
                options = {"sign": sign, "correction": correction}
                for some, more in _guided(of.double, guide):
                    made = evaluate_rows(of.reader.model, some, [("corrected_attention", options | more)], [OnItem()])
                    rows += [dataclasses.replace(r, title=named(sign, correction, guide)) for r in made]
    return rows + [row for other in (False, True) for row in _contrasts(of, other)]


def _guided(examples: Sequence[Example], guide: str) -> Iterator[tuple[Sequence[Example], dict[str, Any]]]:
    """Examples with the guide that each of them has."""
    if guide in ("", BEST_OTHER):
        yield examples, {"guide": Guide.contrast()} if guide else {}
        return
    for c in range(8):
        if guide == OWN:
            some, made = [e for e in examples if e.label == c], Guide.target(Target.logit(c))
        else:
            some, made = [e for e in examples if e.other == c], Guide.contrast(c)
        if some:
            yield some, {"guide": made}


def _contrasts(of: Pictures, other: bool) -> Iterator[Row]:
    """The map of y_c − y_d, which no guide needs."""
    title = f"y_c − y_d itself, d the {'other item' if other else 'best other class'}: positive, incomplete, unguided"
    for e in of.double:
        target = Target.contrast(e.label, e.other if other else None)
        made: Any = explain_reading(of.reader.model, e.reading, target, "gae")
        for row in GivenMaps(model=of.reader.model, explanation=made, title=title).rows(OnItem(), e):
            yield dataclasses.replace(row, group=e.group)


def pictures_of(of: Pictures) -> tuple[list[Row], float]:
    """Each scene of one item beside a scene of another class, on its own tokens: alone, and on the canvas of both.

    And the share of canvases that the model takes for one of the two classes.
    """
    rows: list[Row] = []
    right = 0
    for i, e in enumerate(of.single):
        second = next(o for o in [*of.single[i + 31 :], *of.single] if o.label != e.label)
        first, other = (x.reading.raw["pixel_values"][0].pixels for x in (e, second))
        made = of.reader.explain(first, target=e.label, guide=Guide.picture(other, target=second.label))
        maps = {UNGUIDED: made.told.alone, SHOWN_C: made.told.on_first[0], SHOWN_APART: made}
        for title, one in maps.items():
            rows += GivenMaps(model=of.reader.model, explanation=one, title=title).rows(OnItem(), e)
        right += made.told.predicted[2] in (made.told.c, made.told.e)
    return rows, right / len(of.single)


def words_of() -> list[Row]:
    """The same on sentences, but for the other item: there are two classes, so that the best other one is the only one."""
    some = [
        Variant(named(s, c, guide), "corrected_attention", {"sign": s, "correction": c, **more})
        for s in SIGNS
        for c in CORRECTIONS
        for guide, more in (
            ("", {}),
            (OWN, {"guide": Guide.target(Target.logit())}),
            (OTHER_CLASS, {"guide": "contrast"}),
        )
    ]
    of = Sentences()
    found = evaluate_documents(of.reader, of.documents, [v[1:] for v in some], [Rationale(top="evidence")])
    return labelled(found, some)


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Rows × metrics; after the first metric its paired difference from unguided gae, in bold where it is sure."""
    first = next(iter(columns))
    titles = list(dict.fromkeys(r.title for r in rows))
    less = {d.title: d for d in differences(rows, first, against=UNGUIDED)}
    found = {m: {s.title: s.value for s in summaries(rows) if s.metric == m} for m in columns}
    marks = {m: ranking(rows, m) for m in columns}
    heads = [h for m in columns for h in (columns[m], *(["less unguided gae"] if m == first else []))]
    lines = [["map", *heads], ["---"] * (1 + len(heads))]
    for title in titles:
        cells = [title]
        for m in columns:
            cells.append(cell(found[m].get(title), marks[m].get(title, "")))
            if m == first:
                d = less.get(title)
                cells.append("–" if d is None else f"**{d.value}**" if d.sure else str(d.value))
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def beyond_its_own_map(rows: Sequence[Row], metric: str) -> str:
    """What a contrast adds to the control, sign by sign: paired differences from the map that is guided by itself."""
    lines = []
    for sign in SIGNS:
        for correction in CORRECTIONS:
            own = named(sign, correction, OWN)
            mine = [
                r for r in rows if r.title in {own, *(named(sign, correction, g) for g in (BEST_OTHER, OTHER_ITEM))}
            ]
            found = {d.title: d.value for d in differences(mine, metric, against=own)}
            best, other = (found[named(sign, correction, g)] for g in (BEST_OTHER, OTHER_ITEM))
            lines.append(f"{sign}, {correction}: {best} with the best other class, {other} with the other item")
    return f"- {metric} less that of the map guided by itself: " + "; ".join(lines)


def main() -> None:
    """Print both tables, and write them if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    of = Pictures()
    scenes = rows_of(of)
    two, right = pictures_of(of)
    texts = words_of()
    errors = sorted({r.error for r in [*scenes, *two, *texts] if r.error})
    if errors:
        raise SystemExit("\n".join(errors))
    text = "\n\n".join(
        [
            table(scenes, {"share": "share on the asked item ↑", "pointing": "pointing ↑", "ap": "AP ↑"}),
            f"- `{OnItem().name}`: {len({r.example for r in scenes})} questions on {len({r.group for r in scenes})} scenes; "
            "contrast with the other item knows what else is there\n" + beyond_its_own_map(scenes, "share"),
            table(two, {"share": "share on the item ↑", "pointing": "pointing ↑", "ap": "AP ↑"}),
            f"- the same, of {len({r.example for r in two})} scenes of one item, each beside one of another class; the model "
            f"takes {right:.0%} of the canvases for one of the two",
            table(texts, {"auprc": "marked words, AUPRC ↑", "token_f1": "token F1 ↑"}),
            f"- `{texts[0].protocol.name}`: {len({r.example for r in texts})} sentences",
        ]
    )
    print(text)
    if write:
        measure.write("guidance", text, PAGE)


if __name__ == "__main__":
    main()
