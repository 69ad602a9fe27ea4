"""Is it right? Protocols put questions to maps and give rows; summaries reduce rows (EVALUATION.md).

`protocols.protocol` says what a protocol and a row are; each protocol is a file beside it. `PROTOCOLS` names them all.
"""

from typing import Any

from regard.evaluation.data.dataset import DataSet
from regard.evaluation.data.eraser import Document, read_eraser
from regard.evaluation.data.sources import data_set
from regard.evaluation.examples import Example, examples_of, sample_of
from regard.evaluation.protocols.agreement import MapAgreement
from regard.evaluation.protocols.attribution_error import AttributionError, attribution_error
from regard.evaluation.protocols.causal import Causal
from regard.evaluation.protocols.detected_objects import Objects, found_by
from regard.evaluation.protocols.known_tokens import KnownTokens
from regard.evaluation.protocols.noise import Noise
from regard.evaluation.protocols.perturbation import (
    Perturbation,
    comprehensiveness,
    deletion,
    insertion,
    perturbation,
    sufficiency,
)
from regard.evaluation.protocols.protocol import ExampleMaps, GivenMaps, MethodChoice, Protocol, Row
from regard.evaluation.protocols.rationale import Rationale, rationale
from regard.evaluation.protocols.region_logic import (
    Absence,
    Necessity,
    Pointing,
    QuestionPerturbation,
    Redirection,
    Sufficiency,
    logic,
)
from regard.evaluation.protocols.region_questions import RegionQuestions
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
from regard.evaluation.protocols.table import PROTOCOLS
from regard.evaluation.ranking import ranking
from regard.evaluation.runner import evaluate_documents, evaluate_rows
from regard.evaluation.statistics import Interval
from regard.evaluation.summaries import (
    Accuracies,
    Difference,
    Summary,
    accuracies,
    consistency,
    curve,
    differences,
    summaries,
)

RENAMED = {"Asked": RegionQuestions, "standings": ranking}


def __getattr__(name: str) -> Any:
    """Names of before that are still read."""
    if name in RENAMED:
        return RENAMED[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "PROTOCOLS",
    "Absence",
    "Accuracies",
    "AttributionError",
    "Causal",
    "DataSet",
    "Difference",
    "Document",
    "Example",
    "ExampleMaps",
    "GivenMaps",
    "Interval",
    "KnownTokens",
    "MapAgreement",
    "MethodChoice",
    "Necessity",
    "Noise",
    "Objects",
    "Perturbation",
    "Pointing",
    "Protocol",
    "QuestionPerturbation",
    "Rationale",
    "Redirection",
    "RegionQuestions",
    "Row",
    "Sanity",
    "Segmentation",
    "Sufficiency",
    "Summary",
    "accuracies",
    "attribution_error",
    "batch_invariance",
    "cascade",
    "class_sensitivity",
    "comprehensiveness",
    "consistency",
    "curve",
    "data_set",
    "deletion",
    "differences",
    "evaluate_documents",
    "evaluate_rows",
    "examples_of",
    "found_by",
    "insertion",
    "logic",
    "padding_invariance",
    "perturbation",
    "ranking",
    "rationale",
    "read_eraser",
    "repeatability",
    "sample_of",
    "sanity",
    "segmentation",
    "sufficiency",
    "summaries",
]
