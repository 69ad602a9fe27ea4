"""Regard tells what a Transformer's prediction rests on, and how far to believe the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regard.api.explain import explain
from regard.api.inspect import inspect
from regard.attribution.table import methods, register
from regard.baseline import Baseline
from regard.errors import RegardError
from regard.evaluation.compare import Comparison, compare
from regard.explanation.explanation import Explanation
from regard.explanation.generation import Generation
from regard.explanation.receipt import Receipt
from regard.recording import record
from regard.recording.proof.verify import Verification, verify
from regard.site import Site
from regard.target import Target

if TYPE_CHECKING:
    from regard.reader import Reader

from regard.version import __version__ as __version__


def load(name_or_model: Any, processor: Any = None, **options: Any) -> Reader:
    """A reader for raw pictures, texts or sound: from a hub name, a folder, a zoo name, (model, processor=...), a pipeline.

    See `regard.models.loading.load` for all options. Needs `regard[hf]`.
    """
    from regard.models.loading import load as load_reader

    return load_reader(name_or_model, processor, **options)


__all__ = [
    "Baseline",
    "Comparison",
    "Explanation",
    "Generation",
    "Receipt",
    "RegardError",
    "Site",
    "Target",
    "Verification",
    "compare",
    "explain",
    "inspect",
    "load",
    "methods",
    "record",
    "register",
    "verify",
]
