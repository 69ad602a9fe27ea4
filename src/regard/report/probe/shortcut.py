"""The section of a shortcut probe."""

from __future__ import annotations

import math

from regard.probes.shortcut import Shortcut
from regard.report.probe.parts import ProbeCell, ProbeSection, ProbeTable, bar, percent, sample_name

MEANING = (
    "A model can hide what it has found in the weights themselves: where attention goes is then a code that later layers "
    "read, whatever stands there. Here every sample is run with its own attention over the content of other samples, and "
    "with its own content under uniform attention. Where the weights alone bring back most of the number, a map of "
    "attention shows the code, not evidence, and should not be shown as an explanation. Where they bring back little, no "
    "such shortcut was found; that does not make the map right.",
)


def section(found: Shortcut) -> ProbeSection:
    """A sentence, the four runs sample by sample, and both shares."""
    weights, values = found.overall
    limit = float(max(t.abs().max() for t in (found.own, found.weights_only, found.values_only, found.neither)))
    told = _told(found, weights, values)
    columns = (found.own, found.weights_only, found.values_only, found.neither)
    numbers = [[bar(float(c[i]), limit) for c in columns] for i in range(len(found.own))]
    shares = [[bar(float(s[i])) for s in (found.weights_share, found.values_share)] for i in range(len(found.own))]
    rows = [
        [ProbeCell(sample_name(found.names, i)), *n, *s] for i, (n, s) in enumerate(zip(numbers, shares, strict=True))
    ]
    head = (
        "sample",
        "its own",
        "weights only",
        "values only",
        "neither",
        "share of the weights",
        "share of the values",
    )
    return ProbeSection(f"Shortcut: {found.target}", told, [ProbeTable("", head, rows)], _facts(found), MEANING)


def _told(found: Shortcut, weights: float, values: float) -> str:
    """Both shares in a sentence."""
    if math.isnan(weights):
        return "Neither the weights nor the values carry anything of the number: it is the same without both."
    said = f"The attention weights alone carry {percent(weights)} of the number"
    if found.alike:
        return (
            f"{said}. What the values carry cannot be told of all samples together, since the same class is explained in "
            "all of them: give samples of several classes."
        )
    return f"{said}, the values under uniform attention {percent(values)}."


def _facts(found: Shortcut) -> list[tuple[str, str, str]]:
    content = "the whole run is another sample's" if found.values == "others" else "values are the mean of the others'"
    facts = [
        ("others", str(found.others), f"samples of the batch; {content}"),
        ("passes", str(found.passes), "runs of the model"),
    ]
    if found.weights_keep is not None and found.values_keep is not None:
        facts[1:1] = [
            ("weights only", percent(float(found.weights_keep.mean())), "of the runs still give the predicted class"),
            ("values only", percent(float(found.values_keep.mean())), "of the samples still get the predicted class"),
        ]
    return facts
