"""The section of a model that ran under another attention, and the table of what that changed."""

from __future__ import annotations

from typing import Any

from regard.probes.imposed import AttentionRerun, prediction
from regard.report.probe.parts import ProbeCell, ProbeSection, ProbeTable, bar, percent, sample_name

MEANING = (
    "The model ran a second time with this attention in the place of its own, everything else as it is. Where the number "
    "changes, the model uses where it looks there. Where it does not, either the model looked the same way before, or what it "
    "looks at there does not reach this number. An attention that the model never had makes states that it never saw in "
    "training, so that a number that falls does not show that the prior is wrong.",
)
SHOWN = 60  # samples in the table


def section(found: AttentionRerun) -> ProbeSection:
    """A sentence, and the number of each sample before and after."""
    facts = [
        ("attention", found.prior, "in the place of the model’s own, in all heads"),
        (
            "calls",
            ", ".join(map(str, found.calls)),
            "attention calls that were changed, numbered as by inspect",
        ),
        ("passes", str(found.passes), "runs of the model"),
    ]
    return ProbeSection(f"Another attention: {found.target}", told(found), [changed(found, "")], facts, MEANING)


def told(found: Any) -> str:
    """How many predictions changed, else how the number did."""
    count = len(found.before)
    moved = float((found.after - found.before).abs().mean())
    if found.predicted_before is None or found.predicted_after is None:
        return f"The number changes by {bar(moved).text} on average."
    other = int((found.predicted_before != found.predicted_after).sum())
    if count == 1:
        return f"The prediction: {prediction(found, 0)}. The number changes by {bar(moved).text}."
    return (
        f"{other} of {count} predictions change ({percent(other / count)}); the number by {bar(moved).text} on average."
    )


def changed(found: Any, caption: str) -> ProbeTable:
    """Sample by sample: the number before, after, its change, and what became of the predicted class."""
    limit = float(max(found.before.abs().max(), found.after.abs().max()))
    rows = [
        [
            ProbeCell(sample_name(found.names, i)),
            *(bar(float(v), limit) for v in (b, a, a - b)),
            ProbeCell(prediction(found, i)),
        ]
        for i, (b, a) in enumerate(zip(found.before[:SHOWN], found.after[:SHOWN], strict=True))
    ]
    if len(found.before) > SHOWN:
        caption = f"{caption}{': ' if caption else ''}the first {SHOWN} of {len(found.before)} samples"
    return ProbeTable(caption, ("sample", "as it is", "with this attention", "change", "prediction"), rows)
