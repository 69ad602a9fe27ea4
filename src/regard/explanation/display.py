"""The one door from results to the report, opened when a result is to be shown: nothing else here knows of drawing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

AnyPath = str | os.PathLike[str]


def plot_explanation(explanation: Any, path: AnyPath | None, sample: int, **look: Any) -> Any:
    """One sample as a matplotlib figure; as a file if `path`."""
    from regard.report.explanation.png import plot

    return plot(explanation, path, sample, **look)


def overlay(explanation: Any, sample: int) -> Any:
    """The map of one sample alone, at its picture's size."""
    from regard.report.explanation.png import overlay

    return overlay(explanation, sample)


def write_explanation(explanation: Any, path: AnyPath) -> Path:
    """An explanation as a page."""
    from regard.report.explanation.html import write_page

    return write_page([explanation], path)


def explanation_fragment(explanation: Any) -> str:
    """An explanation as HTML for a notebook."""
    from regard.report.explanation.html import fragment

    return fragment(explanation)


def plot_generation(generation: Any, path: AnyPath | None, **look: Any) -> Any:
    """A generation as a matplotlib figure; as a file if `path`."""
    from regard.report.generation.png import plot

    return plot(generation, path, **look)


def write_generation(generation: Any, path: AnyPath) -> Path:
    """A generation as a page."""
    from regard.report.generation.html import write_page

    return write_page([generation], path)


def generation_fragment(generation: Any) -> str:
    """A generation as HTML for a notebook."""
    from regard.report.generation.html import fragment

    return fragment(generation)


def plot_comparison(comparison: Any, path: AnyPath | None, sample: int, **look: Any) -> Any:
    """One sample of a comparison as a matplotlib figure; as a file if `path`."""
    from regard.report.comparison.png import plot

    return plot(comparison, path, sample, **look)


def write_comparison(comparison: Any, path: AnyPath) -> Path:
    """A comparison as a page."""
    from regard.report.comparison.html import write_page

    return write_page(comparison, path)


def comparison_fragment(comparison: Any) -> str:
    """A comparison as HTML for a notebook."""
    from regard.report.comparison.notebook import fragment

    return fragment(comparison)


def comparison_table(comparison: Any) -> str:
    """A comparison's table as text."""
    from regard.report.comparison.html import plain_table

    return plain_table(comparison)


def plot_transfer(transfer: Any, path: AnyPath | None, sample: int, layer: int | None) -> Any:
    """One sample of an attention transfer as a matplotlib figure; as a file if `path`."""
    from regard.report.transfer.png import plot

    return plot(transfer, path, sample, layer)


def write_transfer(transfer: Any, path: AnyPath, layer: int | None) -> Path:
    """An attention transfer as a page."""
    from regard.report.transfer.html import write_page

    return write_page(transfer, path, layer)


def transfer_table(transfer: Any) -> str:
    """An attention transfer as text: a sentence, and a table of its layers."""
    from regard.report.transfer.view import plain_table

    return plain_table(transfer)


def write_heads(heads: Any, path: AnyPath) -> Path:
    """The maps of single heads as a page."""
    from regard.report.heads.html import write_page

    return write_page(heads, path)


def heads_table(heads: Any) -> str:
    """The maps of single heads as text: a line a layer."""
    from regard.report.heads.html import plain_table

    return plain_table(heads)


def plot_rewriting(rewriting: Any, path: AnyPath | None, sample: int) -> Any:
    """One rewritten picture as a matplotlib figure; as a file if `path`."""
    from regard.report.rewriting.png import plot

    return plot(rewriting, path, sample)


def write_rewriting(rewriting: Any, path: AnyPath) -> Path:
    """A rewriting as a page."""
    from regard.report.rewriting.html import write_page

    return write_page(rewriting, path)


def plot_told(told: Any, path: AnyPath | None) -> Any:
    """What tells two classes apart as a matplotlib figure; as a file if `path`."""
    from regard.report.telling.png import plot

    return plot(told, path)


def write_told(told: Any, path: AnyPath) -> Path:
    """What tells two classes apart as a page."""
    from regard.report.telling.html import write_page

    return write_page([told], path)


def write_probe(result: Any, path: AnyPath) -> Path:
    """What a probe found as a page."""
    from regard.report.probe.html import write_page

    return write_page([result], path)


def write_posthoc(agreement: Any, path: AnyPath) -> Path:
    """How far attention maps agree with post-hoc maps as a page."""
    from regard.report.posthoc.html import write_page

    return write_page(agreement, path)


def write_diagnosis(found: Any, path: AnyPath) -> Path:
    """What the doctor found as a page."""
    from regard.report.doctor.html import write_page

    return write_page(found, path)
