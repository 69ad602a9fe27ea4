"""Is it right? Protocols as pure functions: (explanations, model, data) -> rows; a summary reduces rows (EVALUATION.md)."""

from regard.evaluation.data.eraser import Document, read_eraser
from regard.evaluation.protocols.attribution_error import attribution_error
from regard.evaluation.protocols.detected_objects import Objects, found_by
from regard.evaluation.protocols.perturbation import (
    Perturbation,
    comprehensiveness,
    deletion,
    insertion,
    perturbation,
    sufficiency,
)
from regard.evaluation.protocols.rationale import Rationale, rationale
from regard.evaluation.protocols.region_logic import Absence, Necessity, Pointing, Redirection, Sufficiency, logic
from regard.evaluation.protocols.region_questions import Asked
from regard.evaluation.protocols.sanity import (
    Sanity,
    batch_invariance,
    cascade,
    class_sensitivity,
    padding_invariance,
    repeatability,
    sanity,
)
from regard.evaluation.protocols.segmentation import Segmentation, segmentation
from regard.evaluation.ranking import direction, standings
from regard.evaluation.rows import Example, Row, examples_of, sample_of
from regard.evaluation.runner import evaluate_documents, evaluate_rows
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
