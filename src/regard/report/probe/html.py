"""What probes found as one self-contained page. Nothing from the network; all text escaped; no script."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from regard.errors import Misuse
from regard.explanation.writing import write_atomically
from regard.probes.correspondence import Correspondence
from regard.probes.grounding import Grounding
from regard.probes.heads import Heads
from regard.probes.imposed import AttentionRerun
from regard.probes.shortcut import Shortcut
from regard.report import need
from regard.report.page import COLOURS, templates
from regard.report.probe import correspondence, grounding, heads, rerun, shortcut
from regard.report.probe.parts import ProbeSection

SECTIONS: dict[type, Callable[[Any], ProbeSection]] = {
    Shortcut: shortcut.section,
    Correspondence: correspondence.section,
    Heads: heads.section,
    Grounding: grounding.section,
    AttentionRerun: rerun.section,
}
"""What each kind of result looks like."""


def write_page(found: Sequence[Any], path: str | os.PathLike[str]) -> Path:
    """Write a page of some results, a section each. Raises Misuse where a package of `regard[viz]` is missing."""
    return write_atomically(path, page(found).encode("utf-8", "replace"))


def page(found: Sequence[Any]) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    sections = [_section(result) for result in found]
    title = sections[0].title if len(sections) == 1 else "Probes"
    template = templates().get_template("probe.html.j2")
    return str(template.render(title=title, sections=sections, colours=COLOURS, opacity=1))


def _section(result: Any) -> ProbeSection:
    if type(result) not in SECTIONS:
        raise Misuse(f"a {type(result).__name__} is no result of a probe")
    return SECTIONS[type(result)](result)


__all__ = ["page", "write_page"]
