"""The section of a probe of correspondence."""

from __future__ import annotations

from regard.probes.correspondence import Correspondence
from regard.report.probe.parts import ProbeCell, ProbeSection, ProbeTable, bar, percent

MEANING = (
    "Attention weighs states, and is drawn on the tokens that stand at their positions. That is honest only as far as a state "
    "is still about its own token: where the share is small, or the entropy near 1, “attention to this word” is attention to "
    "a mixture of all words. The last column asks the other question: whether tokens that get more attention in a layer are "
    "those without which the number falls most (rank correlation; 1 is the same order, 0 none). Taking a token out makes an "
    "input that the model never saw.",
)


def section(found: Correspondence) -> ProbeSection:
    """A sentence, and a row for each layer."""
    rows = found.rows()
    _, share, _, correlation = rows[-1]
    told = (
        f"After the last block, {percent(share)} of what a state is about is the token at its own position; attention there "
        f"ranks the tokens as their removal does with a correlation of {bar(correlation).text}."
    )
    head = ("layer", "share of its own token", "entropy of the shares", "attention with removal")
    cells = [[ProbeCell(f"{i} · {m}"), bar(s), bar(e), bar(c)] for i, (m, s, e, c) in enumerate(rows)]
    facts = [
        ("stream", found.stream, f"{len(found.tokens)} of its tokens were looked at"),
        ("directions", str(found.draws or "all"), "of each state, whose gradients were taken"),
        ("passes", str(found.passes), "forward and gradient passes"),
        ("target", found.target, f"whose value falls or rises where a token is taken away; tokens are {found.taken}"),
    ]
    return ProbeSection(f"Correspondence: {found.stream}", told, [ProbeTable("", head, cells)], facts, MEANING)
