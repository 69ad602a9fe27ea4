"""Protocol 4, rationale: does the map mark the words that people gave as the reason (ERASER, DeYoung et al. 2020)?

A word's score is the largest of its pieces', aligned by offsets of characters. A document longer than the model takes is
read in windows (windows.py); its class probabilities are the mean over them, and each window is explained for the whole
document's class. Where only the first windows are read, evidence beyond them is reported, and all metrics are about what was
read. Comprehensiveness and sufficiency read the document anew without, or with only, the top words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.errors import Misuse, nearest
from regard.evaluation.data.eraser import Document, Span, word_spans
from regard.evaluation.examples import checked
from regard.evaluation.protocols.perturbation import SHARES, counted, order_of, tie_seed
from regard.evaluation.protocols.protocol import EXPLAINED, Judged, MethodChoice, Protocol, Row
from regard.evaluation.protocols.segmentation import average_precision
from regard.evaluation.protocols.windows import ReaderOfTexts, Window, windows_of, word_scores
from regard.explanation.raw_inputs import Text
from regard.extras import brought_by
from regard.recording.random_state import rng_kept
from regard.target import scores as class_scores

Marked = Bool[Tensor, " word"]
BATCH = 8
AGREEMENT = ("precision", "recall", "token_f1", "iou_f1", "auprc", "ap")


@dataclass(kw_only=True)
class ReadMaps(Judged):
    """A method by a reader, which cuts documents into windows."""

    reader: ReaderOfTexts
    choice: MethodChoice

    def columns(self) -> dict[str, Any]:
        """As the choice says."""
        return self.choice.columns()


@dataclass(frozen=True)
class Rationale(Protocol):
    """How many words count as marked, what is read, and which words are taken away.

    Attributes:
        top: share of the words that are marked (ERASER: the data set's mean share of evidence), or "evidence": as many as the
            annotator marked in this document. explained: "predicted" or "true" class.
        windows: how many are read, from the start (None: all). limit: tokens of a window (None: what the model takes).
        shares: of the words that comprehensiveness and sufficiency take, the mean over them.
        match: the IoU from which two spans are the same.
    """

    kind: ClassVar[str] = "rationale"
    question: ClassVar[str] = "Does the map mark the words that people gave as the reason?"
    better: ClassVar[Mapping[str, int]] = {**dict.fromkeys((*AGREEMENT, "comprehensiveness"), 1), "sufficiency": -1}
    headlines: ClassVar[tuple[str, ...]] = ("auprc",)
    axis: ClassVar[str] = "share of the words"

    known_answer: ClassVar[bool] = True
    meanings: ClassVar[Mapping[str, str]] = {
        "auprc": "area under precision over recall of the marked words in the order of the map",
        "ap": "average precision of the marked words in the order of the map",
        "precision": "share of the top words that people marked",
        "recall": "share of the marked words that are among the top words",
        "token_f1": "F1 of the top words and the marked words",
        "iou_f1": "F1 of runs of top words that overlap a marked run",
        "comprehensiveness": "how far the class's probability falls without the top words",
        "sufficiency": "how far it falls with the top words alone",
    }

    top: float | str = 0.1
    explained: str = "predicted"
    windows: int | None = None
    limit: int | None = None
    shares: tuple[float, ...] = SHARES
    match: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(self.shares))
        if self.explained not in EXPLAINED:
            raise nearest(self.explained, EXPLAINED, "class to explain")
        if isinstance(self.top, str) and self.top != "evidence":
            raise nearest(self.top, ("evidence",), "number of top words")
        if not self.shares or not all(
            0 < s < 1 for s in (*self.shares, *([] if isinstance(self.top, str) else [self.top]))
        ):
            raise Misuse("shares of words must lie between 0 and 1, and be one at the least")
        for what, number in (("windows", self.windows), ("limit", self.limit)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise Misuse(f"{what} must be a whole number of at least 1, or None; not {number!r}")

    @property
    def name(self) -> str:
        """The full name."""
        read = "all" if self.windows is None else f"first {self.windows}"
        size = "" if self.limit is None else f":{self.limit}"
        top = self.top if isinstance(self.top, str) else f"{self.top:g}"
        shares = ",".join(f"{s:g}" for s in self.shares)
        return (
            f"{self.kind}/word-max/{self.explained}/windows={read}{size}/join=mean-probability/top={top}/iou>={self.match:g}"
            f"/shares={shares}"
        )

    def run(self, maps: ReadMaps, example: Document) -> list[Row]:
        """Agreement and dependence of one document's map."""
        choice = maps.choice
        return rationale(maps.reader, example, self, choice.name, choice.options, seed=maps.seed)


def rationale(
    reader: ReaderOfTextsOfTexts,
    document: Document,
    setting: Rationale,
    method: str = "gae",
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> list[Row]:
    """One document: how far its map agrees with its rationale, and how much the model rests on the top words."""
    windows = windows_of(reader, document, setting.limit)
    windows = windows[: setting.windows]
    read = part_of(document, windows[-1].last)
    probabilities = document_probabilities(reader, windows)
    predicted = int(probabilities.argmax())
    explained = predicted if setting.explained == "predicted" else document.label
    if explained is None:
        raise Misuse(f"document {document.name} has no label, so its true class cannot be explained")
    scores = document_scores(reader, read, windows, explained, method, options or {}, seed)
    order = order_of(scores, "positive", tie_seed(seed, document.name))
    values = agreement(scores, order, read, setting) | {
        "windows": float(len(windows)),
        "evidence_words": float(sum(document.is_evidence)),
        "evidence_beyond": beyond(document, len(read.words)),
    }
    curves = {}
    for name, keep_top in (("comprehensiveness", False), ("sufficiency", True)):
        left = [reduced(read, order, s, keep_top) for s in setting.shares]
        found = [document_probabilities(reader, windows_of(reader, d, setting.limit))[explained] for d in left]
        losses = [float(probabilities[explained] - p) for p in found]
        values[name] = sum(losses) / len(losses)
        curves[name] = list(zip(setting.shares, losses, strict=True))
    known = {"label": document.label, "predicted": predicted, "explained": explained}
    return setting.rows(document.name, values, curves, **known)


def part_of(document: Document, words: int) -> Document:
    """The first so many words of a document, and the evidence among them."""
    spans = tuple((a, min(b, words)) for a, b in document.evidence if a < words)
    text = document.text[: document.words[words - 1][1]]
    return replace(document, text=text, words=document.words[:words], evidence=spans)


def beyond(document: Document, words: int) -> float:
    """The share of the evidence that lies beyond the words that were read; NaN where there is no evidence."""
    marked = document.is_evidence
    return sum(marked[words:]) / sum(marked) if any(marked) else math.nan


def document_probabilities(reader: ReaderOfTexts, windows: Sequence[Window]) -> Float[Tensor, " classes"]:
    """The mean of the windows' class probabilities."""
    parts = []
    with torch.no_grad(), rng_kept(reader.model):
        for some in _batches(windows):
            output = reader.model(**reader.read([w.text for w in some]).inputs)
            parts.append(class_scores(output, None).double().softmax(-1).cpu())
    return torch.cat(parts).mean(0)


def document_scores(
    reader: ReaderOfTexts,
    document: Document,
    windows: Sequence[Window],
    explained: int,
    method: str,
    options: Mapping[str, Any],
    seed: int = 0,
) -> Float[Tensor, " word"]:
    """A score for every word that was read, window by window, each explained for the same class."""
    out = []
    for some in _batches(windows):
        found = reader.explain([w.text for w in some], target=explained, method=method, seed=seed, **options)
        for i, window in enumerate(some):
            text = found.inputs[reader.stream][i]
            assert isinstance(text, Text)
            start = document.words[window.first][0]
            words = [(a - start, b - start) for a, b in document.words[window.first : window.last]]
            out.append(word_scores(checked(found.scores[reader.stream][i], "map"), text, words))
    return torch.cat(out)


def _batches(windows: Sequence[Window]) -> list[Sequence[Window]]:
    return [windows[i : i + BATCH] for i in range(0, len(windows), BATCH)]


def reduced(document: Document, order: Tensor, share: float, keep_top: bool) -> Document:
    """The document with only the top share of its words, or without it; lines stay lines. At least one word stays."""
    count = min(max(1, counted(share, len(order))), max(1, len(order) - 1))
    top = torch.zeros(len(order), dtype=torch.bool)
    top[order[:count]] = True
    kept = [i for i, t in enumerate(top.tolist()) if t == keep_top] or [int(order[-1])]
    pieces, last = [], document.words[kept[0]][0]
    for i in kept:
        a, b = document.words[i]
        pieces.append(("\n" if "\n" in document.text[last:a] else " ") + document.text[a:b])
        last = b
    text = "".join(pieces)[1:]
    return Document(document.name, text, document.label, word_spans(text), ())


# -- agreement with people ---------------------------------------------------------------------------------------------


def agreement(
    scores: Float[Tensor, " word"], order: Tensor, document: Document, setting: Rationale
) -> dict[str, float]:
    """Token F1 and IoU-F1 of the hard top words; AUPRC and AP of the soft scores. NaN where nothing read is evidence."""
    truth = torch.tensor(document.is_evidence)
    if not bool(truth.any()):
        return dict.fromkeys(AGREEMENT, math.nan)
    share = setting.top if isinstance(setting.top, float) else 0.0
    count = int(truth.sum()) if setting.top == "evidence" else max(1, counted(share, len(scores)))
    found = torch.zeros_like(truth)
    found[order[:count]] = True
    judged = brought_by("eval", "sklearn.metrics").precision_recall_fscore_support
    precision, recall, token_f1, _ = judged(truth.numpy(), found.numpy(), average="binary", zero_division=0)
    return {
        "precision": float(precision),
        "recall": float(recall),
        "token_f1": float(token_f1),
        "iou_f1": iou_f1(runs(found), document.evidence, setting.match),
        "auprc": auprc(scores, truth),
        "ap": average_precision(scores, truth),
    }


def auprc(scores: Float[Tensor, " word"], truth: Marked) -> float:
    """The area under precision over recall by trapezoids, beginning at recall 0 with precision 1, as ERASER takes it."""
    metrics = brought_by("eval", "sklearn.metrics")
    precision, recall, _ = metrics.precision_recall_curve(truth.numpy(), scores.numpy())
    return float(metrics.auc(recall, precision))


def runs(found: Marked) -> list[Span]:
    """The spans [start, end) of words that are marked side by side."""
    out: list[Span] = []
    for i in found.nonzero()[:, 0].tolist():
        out = [*out[:-1], (out[-1][0], i + 1)] if out and out[-1][1] == i else [*out, (i, i + 1)]
    return out


def iou_f1(found: Sequence[Span], truth: Sequence[Span], match: float = 0.5) -> float:
    """F1 of spans: one is right where its IoU with some span of the other side is at least `match`."""
    if not found or not truth:
        return 0.0
    precision = sum(any(span_iou(a, b) >= match for b in truth) for a in found) / len(found)
    recall = sum(any(span_iou(a, b) >= match for a in found) for b in truth) / len(truth)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def span_iou(a: Span, b: Span) -> float:
    """Shared words over all words of two spans."""
    shared = max(0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + b[1] - b[0] - shared)


def evidence_share(documents: Sequence[Document]) -> float:
    """The mean share of words that are evidence: ERASER's number of top words. Take it from the training split."""
    return sum(sum(d.is_evidence) / len(d.words) for d in documents) / len(documents)


__all__ = [
    "Rationale",
    "ReadMaps",
    "agreement",
    "auprc",
    "document_probabilities",
    "document_scores",
    "evidence_share",
    "iou_f1",
    "part_of",
    "rationale",
    "reduced",
    "runs",
]
