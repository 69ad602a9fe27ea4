"""Is it right? Protocols as pure functions: (explanations, model, data) -> rows; a summary reduces rows (EVALUATION.md)."""

from regard.evaluation.asked import Asked
from regard.evaluation.attribution_error import attribution_error
from regard.evaluation.eraser import Document, read_eraser
from regard.evaluation.logic import Absence, Necessity, Pointing, Redirection, Sufficiency, logic
from regard.evaluation.objects import Objects, found_by
from regard.evaluation.perturbation import (
    Perturbation,
    comprehensiveness,
    deletion,
    insertion,
    perturbation,
    sufficiency,
)
from regard.evaluation.rationale import Rationale, rationale
from regard.evaluation.rows import Example, Row, examples_of, sample_of
from regard.evaluation.runner import evaluate_documents, evaluate_rows
from regard.evaluation.sanity import (
    Sanity,
    batch_invariance,
    cascade,
    class_sensitivity,
    padding_invariance,
    repeatability,
    sanity,
)
from regard.evaluation.segmentation import Segmentation, segmentation
from regard.evaluation.standing import direction, standings
from regard.evaluation.statistics import Interval
from regard.evaluation.summaries import Difference, Summary, consistency, curve, differences, summaries

__all__ = [
    "Absence",
    "Asked",
    "Difference",
    "Document",
    "Example",
    "Interval",
    "Necessity",
    "Objects",
    "Perturbation",
    "Pointing",
    "Rationale",
    "Redirection",
    "Row",
    "Sanity",
    "Segmentation",
    "Sufficiency",
    "Summary",
    "attribution_error",
    "batch_invariance",
    "cascade",
    "class_sensitivity",
    "comprehensiveness",
    "consistency",
    "curve",
    "deletion",
    "differences",
    "direction",
    "evaluate_documents",
    "evaluate_rows",
    "examples_of",
    "found_by",
    "insertion",
    "logic",
    "padding_invariance",
    "perturbation",
    "rationale",
    "read_eraser",
    "repeatability",
    "sample_of",
    "sanity",
    "segmentation",
    "standings",
    "sufficiency",
    "summaries",
]
