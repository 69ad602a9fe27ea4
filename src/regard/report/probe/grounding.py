"""The section of a probe of grounding."""

from __future__ import annotations

from regard.explanation.raw_inputs import Picture
from regard.probes.grounding import Grounding, Phrase
from regard.report.page import uri_of
from regard.report.probe import rerun
from regard.report.probe.parts import (
    ProbeCell,
    ProbePicture,
    ProbeSection,
    ProbeTable,
    bar,
    percent,
    sample_name,
    shade,
)

MEANING = (
    "If it is known which regions a phrase means, attention can be marked: how much of it lies there, whether its peak does, "
    "and how far it is from looking there alone (KL; 0 is there alone and evenly). A layer that points well grounds the "
    "phrase. One that does not may do other work, and a model can answer rightly without any layer that points: the phrase may "
    "have been bound to its region from the other side, by regions that look at words. The best of several heads is good by "
    "chance too.",
    "The table of samples puts the known regions in the place of what the phrases look at, in all these layers and heads at "
    "once. Where the number hardly changes, the model either looks there already, or this attention does not reach its answer.",
)
SHOWN, WIDEST = 16, 40  # phrases (and pictures), and regions, in the tables of maps


def section(found: Grounding) -> ProbeSection:
    """A sentence, a row for each layer, maps of phrases over regions, and what the known regions change."""
    chance, count = float(found.chance.mean()), len(found.phrases)
    facts = [
        ("text", found.query_stream, f"{count} {'phrase' if count == 1 else 'phrases'} with known regions"),
        (
            "regions",
            found.key_stream,
            f"{found.attention.shape[-1]}; a phrase’s attention over them is brought to sum 1",
        ),
        ("passes", str(found.passes), "runs of the model"),
    ]
    after = rerun.changed(found, f"{found.target}, with the attention of phrases put on the known regions")
    title = f"Grounding: {found.query_stream} to {found.key_stream}"
    tables = [_layers(found, chance), after, *_maps(found)]
    return ProbeSection(
        title, _told(found, chance), tables, facts, MEANING, [_numbered(p) for p in found.pictures[:SHOWN]]
    )


def _told(found: Grounding, chance: float) -> str:
    """How many phrases the best layer points at rightly."""
    rows, count = found.rows(), len(found.phrases)
    best = max(rows, key=lambda row: row.pointing)
    where = f"{'In' if len(rows) == 1 else 'At best, in'} layer {best.layer}"
    if count > 1:
        looks = f"{percent(best.pointing)} of {count} phrases look most at a region that they mean"
        return f"{where}, {looks}; by chance {percent(chance)} would."
    if not best.pointing:
        return f"In no layer does “{found.phrases[0].said}” look most at a region that it means."
    return (
        f"{where}, “{found.phrases[0].said}” looks most at a region that it means; {percent(chance)} would by chance."
    )


def _numbered(picture: Picture) -> ProbePicture:
    """A picture with its regions."""
    height, width = picture.pixels.shape[:2]
    boxes = [(b.left, b.top, b.right - b.left, b.bottom - b.top) for b in picture.regions]
    return ProbePicture(picture.name, uri_of(picture.pixels.cpu().numpy()), (width, height), boxes)


def _layers(found: Grounding, chance: float) -> ProbeTable:
    """A row for each layer, and one of even attention."""
    rows, even = found.rows(), float(found.kl_even.mean())
    limit = max([r.kl for r in rows if r.kl < float("inf")] + [even])
    cells = [
        [
            ProbeCell(f"{r.layer} · {r.module}"),
            *(bar(v) for v in (r.on_regions, r.on_known, r.pointing)),
            ProbeCell(str(r.best_head)),
            bar(r.best_pointing),
            bar(r.kl, limit),
        ]
        for r in rows
    ]
    none = ProbeCell("")
    last = [ProbeCell("even attention"), none, bar(chance), bar(chance), none, none, bar(even, limit)]
    head = ("layer", "on all regions", "of that on the known", "pointing", "best head", "its pointing", "KL")
    return ProbeTable("", head, [*cells, last])


def _maps(found: Grounding) -> list[ProbeTable]:
    """Of each layer, what phrases look at: colours, the known regions framed. Nothing where there are too many regions."""
    count = found.attention.shape[-1]
    if count > WIDEST:
        return []
    rest = f" (the first {SHOWN} phrases)" if len(found.phrases) > SHOWN else ""
    limit = float(found.attention[:, :SHOWN].max())
    head = ["", *map(str, range(count))]
    return [
        ProbeTable(
            f"Layer {layer}: known regions framed, numbered from 0 as in the pairs{rest}",
            head,
            [
                [
                    ProbeCell(_name(found, phrase)),
                    *(shade(v, limit)._replace(framed=k in phrase.regions) for k, v in enumerate(row.tolist())),
                ]
                for phrase, row in zip(found.phrases[:SHOWN], maps, strict=False)
            ],
            matrix=True,
        )
        for layer, maps in zip(found.layers, found.attention, strict=True)
    ]


def _name(found: Grounding, phrase: Phrase) -> str:
    """What a phrase is called; with its sample where there are several."""
    return phrase.said if len(found.before) == 1 else f"{phrase.said} · {sample_name(found.names, phrase.sample)}"
