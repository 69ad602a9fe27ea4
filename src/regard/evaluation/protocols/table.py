"""The table of protocols: the one list that documents and generated tests read, and that a stored row finds its protocol in."""

from __future__ import annotations

from regard.evaluation.protocols.agreement import MapAgreement
from regard.evaluation.protocols.attribution_error import AttributionError
from regard.evaluation.protocols.causal import Causal
from regard.evaluation.protocols.known_tokens import KnownTokens
from regard.evaluation.protocols.noise import Noise
from regard.evaluation.protocols.perturbation import Perturbation
from regard.evaluation.protocols.protocol import Protocol
from regard.evaluation.protocols.rationale import Rationale
from regard.evaluation.protocols.region_logic import (
    Absence,
    Necessity,
    Pointing,
    QuestionPerturbation,
    Redirection,
    Sufficiency,
)
from regard.evaluation.protocols.sanity import Sanity
from regard.evaluation.protocols.segmentation import Segmentation

PROTOCOLS: dict[str, type[Protocol]] = {
    p.__name__: p
    for p in (
        AttributionError, Perturbation, Segmentation, Rationale, Sanity, Causal, Noise, MapAgreement,
        Necessity, Sufficiency, Redirection, Absence, Pointing, QuestionPerturbation, KnownTokens,
    )
}  # fmt: skip

__all__ = ["PROTOCOLS"]
