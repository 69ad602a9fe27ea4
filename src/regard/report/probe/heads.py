"""The section of a probe of heads."""

from __future__ import annotations

from regard.probes.heads import Heads, LayerHeads, median
from regard.report.colour import number
from regard.report.probe.parts import ProbeCell, ProbeSection, ProbeTable, bar, shade

MEANING = (
    "Heads whose maps and outputs are nearly the same do the same work: one of them could be left out, and a map that is "
    "a mean over heads counts it twice. The outputs are compared by linear CKA, which does not see rotations and scales, "
    "the maps by their cosine. This is about these inputs: heads that agree here may part ways elsewhere, and with fewer "
    "rows than a head is wide CKA is near 1 whatever they do. Maps are never negative, so that a cosine of 0.5 is "
    "nothing unusual.",
)
LISTED = 20  # redundant pairs in the table; the matrices show all


def section(found: Heads) -> ProbeSection:
    """A sentence, the redundant pairs, and both matrices of every layer."""
    same = found.redundant
    count, layers = len(same), len({p.layer for p in same})
    several = {layer.layer for layer in found.layers if layer.heads > 1}
    told = (
        f"{count} {'pair' if count == 1 else 'pairs'} of heads, in {layers} of {len(several)} layers, do nearly the same."
        if same
        else "No two heads of a layer do the same."
        if several
        else "Every layer has one head alone, so that none can be like another."
    )
    head = ("layer", "heads", "CKA of outputs", "cosine of maps")
    rows = [
        [
            ProbeCell(str(p.layer)),
            ProbeCell(f"{p.one} and {p.other}"),
            ProbeCell(f"{p.cka:.3f}", p.cka),
            ProbeCell(f"{p.cosine:.3f}", p.cosine),
        ]
        for p in same[:LISTED]
    ]
    rest = f" (the first {LISTED} of {count})" if count > LISTED else ""
    listed = [ProbeTable(f"Redundant pairs{rest}", head, rows)] if same else []
    facts = [
        ("redundant", f"{found.threshold:g}", "how alike a pair is in both numbers, at the least"),
        ("CKA", number(_median(found, "cka")), "the median over all pairs of a layer"),
        ("cosine", number(_median(found, "cosine")), "the median over all pairs of a layer"),
    ]
    matrices = [m for layer in found.layers if layer.heads > 1 for m in _matrices(layer)]
    return ProbeSection("Heads that are alike", told, [_layers(found), *listed, *matrices], facts, MEANING)


def _layers(found: Heads) -> ProbeTable:
    """A row for each layer: medians over its pairs, and how many of them are redundant."""
    rows = [
        [
            ProbeCell(f"{layer.layer} · {layer.name}"),
            ProbeCell(str(layer.heads)),
            bar(median([p.cka for p in layer.pairs()])),
            bar(median([p.cosine for p in layer.pairs()])),
            ProbeCell(str(len(found.redundant_in(layer)))),
        ]
        for layer in found.layers
    ]
    return ProbeTable("", ("layer", "heads", "CKA of outputs", "cosine of maps", "redundant pairs"), rows)


def _median(found: Heads, which: str) -> float:
    return median([getattr(p, which) for layer in found.layers for p in layer.pairs()])


def _matrices(layer: LayerHeads) -> list[ProbeTable]:
    """CKA and cosine of a layer, head by head."""
    head = ["", *(str(h) for h in range(layer.heads))]
    return [
        ProbeTable(
            f"Layer {layer.layer}: {what}",
            head,
            [[ProbeCell(str(i)), *(shade(float(v)) for v in row)] for i, row in enumerate(values)],
            matrix=True,
        )
        for what, values in (("outputs (CKA)", layer.cka), ("maps (cosine)", layer.cosine))
    ]
