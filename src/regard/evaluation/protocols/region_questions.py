"""Questions about regions of a picture, and how a region or a word is taken away from the model that is asked.

Two streams, two ways each. A *region* is masked in attention (the model gets its mask, nothing of features or box is read), or
made an *empty* one: its features and its box are those of a box with nothing in it. A box alone may tell what is in it
(trousers are tall and narrow), so an empty region has another box too. A *token* of the text is dropped from it (what stands
behind moves up), or masked in attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from regard.attribution.removal.units import cut
from regard.errors import Misuse, nearest
from regard.recording.ambient import as_the_user, our_own
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.target import scores

AWAY = {"region": ("mask", "empty"), "token": ("drop", "mask")}
ROWS = 512


@dataclass(frozen=True)
class RegionQuestions:
    """Questions, side by side in one batch, and what is known of their answers (that on the CPU; inputs where the model is).

    Attributes:
        inputs: the model's keyword tensors, questions on axis 0. names: one a question, each its own.
        labels: the answer's class, -1 where there is none. asked: the token that names what is asked for, -1 for none.
        evidence: the regions that an answer cannot be known without. source: those of them that it is read off.
        special: tokens that are no words (CLS, SEP, padding).
        redirections: pairs of questions about one picture that differ in the asked word alone. absences: pairs of a question
            about what is not there, and the same about what is.
        regions, words: the two streams. region_mask, word_mask: the keywords of their attention masks; made where missing.
        empty: keyword -> (width,), what a region with nothing in it has there.
        output: the field of the model's output that holds the scores of the answers; None: `logits`.
        pad: the id that fills up shorter texts.
    """

    inputs: Mapping[str, Tensor]
    names: tuple[str, ...]
    labels: Int[Tensor, " question"]
    evidence: Bool[Tensor, "question region"]
    source: Bool[Tensor, "question region"]
    asked: Int[Tensor, " question"]
    special: Bool[Tensor, "question token"]
    redirections: Int[Tensor, "pair 2"] = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.int64))
    absences: Int[Tensor, "pair 2"] = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.int64))
    regions: str = "visual_feats"
    words: str = "input_ids"
    region_mask: str = "visual_attention_mask"
    word_mask: str = "attention_mask"
    empty: Mapping[str, Float[Tensor, " width"]] = field(default_factory=dict)
    output: str | int | None = None
    pad: int = 0

    def __post_init__(self) -> None:
        for stream in (self.regions, self.words):
            if stream not in self.inputs:
                raise nearest(stream, self.inputs, "input")
        sizes = {len(v) for v in (*self.inputs.values(), self.labels, self.evidence, self.source, self.asked)}
        if sizes != {len(self.names)} or len(set(self.names)) != len(self.names):
            raise Misuse(f"{len(self.names)} questions need a name of their own, and one row of every input and answer")

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.names)

    def select(self, rows: Tensor) -> RegionQuestions:
        """Return the questions at ``rows``, indices or a bool mask; pairs that lose a question are left out."""
        kept = torch.arange(len(self))[rows]
        at = torch.full((len(self),), -1).index_copy_(0, kept, torch.arange(len(kept)))
        pairs = [p[(p >= 0).all(1)] for p in (at[self.redirections], at[self.absences])]
        per_question = ("labels", "evidence", "source", "asked", "special")
        return replace(
            self,
            inputs={k: v[kept] for k, v in self.inputs.items()},
            names=tuple(self.names[i] for i in kept.tolist()),
            redirections=pairs[0],
            absences=pairs[1],
            **{name: getattr(self, name)[kept] for name in per_question},
        )

    def label(self, i: int) -> int | None:
        """The class of one question's answer, where there is one."""
        return None if self.labels[i] < 0 else int(self.labels[i])

    def stream(self, unit: str) -> str:
        """The stream of a unit."""
        return self.regions if unit == "region" else self.words

    def real(self, unit: str) -> Bool[Tensor, "question unit"]:
        """The units that can be taken away: no padding, no special tokens."""
        if unit == "region":
            return self.mask_of(unit).bool().cpu()
        return self.mask_of(unit).bool().cpu() & ~self.special

    def mask_of(self, unit: str) -> Tensor:
        """The attention mask of a unit's stream."""
        x = self.inputs[self.stream(unit)]
        given = self.inputs.get(self.region_mask if unit == "region" else self.word_mask)
        return torch.ones(x.shape[:2], dtype=torch.int64, device=x.device) if given is None else given

    def without(
        self, unit: str, away: str, rows: Int[Tensor, " copy"], taken: Bool[Tensor, "copy unit"]
    ) -> dict[str, Tensor]:
        """Keyword tensors of copies of questions (which: `rows`), each without the units that are `taken` from it."""
        inputs = {k: v[rows.to(v.device)] for k, v in self.inputs.items()}
        taken = taken.to(inputs[self.stream(unit)].device)
        keyword = self.region_mask if unit == "region" else self.word_mask
        if away == "drop":
            others = {k: inputs.pop(k) for k in (self.regions, self.region_mask, *self.empty) if k in inputs}
            return cut(inputs, self.words, taken, self.pad, self.word_mask) | others
        if away == "mask":
            inputs[keyword] = self.mask_of(unit)[rows].masked_fill(taken, 0)
            return inputs
        if not self.empty:
            raise Misuse(
                'away="empty" needs to know what an empty region has: give RegionQuestions(empty={keyword: values})'
            )
        for name, value in self.empty.items():
            inputs[name] = torch.where(taken[..., None], value.to(inputs[name]), inputs[name])
        return inputs


def checked_away(unit: str, away: str) -> None:
    """Raise UnknownName for a unit or a way that there is not."""
    if unit not in AWAY:
        raise nearest(unit, AWAY, "unit")
    if away not in AWAY[unit]:
        raise nearest(away, AWAY[unit], f"way to take a {unit} away")


def probabilities(
    model: nn.Module,
    data: RegionQuestions,
    unit: str,
    away: str,
    rows: Int[Tensor, " copy"],
    taken: Bool[Tensor, "copy unit"],
) -> Float[Tensor, "copy answer"]:
    """The model's probabilities of all answers on copies of questions, some units taken away: float64, on the CPU."""
    refuse(model, False)
    parts = []
    with torch.no_grad(), rng_kept(model), our_own():
        for some, away_there in zip(rows.split(ROWS), taken.split(ROWS), strict=True):
            inputs = data.without(unit, away, some, away_there)
            with as_the_user():
                parts.append(scores(model(**inputs), data.output).double().cpu())
    logits = torch.cat(parts)
    if logits.ndim != 2 or len(logits) != len(rows) or not bool(torch.isfinite(logits).all()):
        raise Misuse(f"the model must give finite scores (question, answer); it gave {tuple(logits.shape)}")
    return logits.softmax(-1)


def entropy(shares: Float[Tensor, " unit"]) -> float:
    """−Σ p log p / log n: 0 where one of n has all, 1 where all have the same; NaN of a single one, or of nothing."""
    if len(shares) < 2 or not bool(shares.sum() > 0):
        return math.nan
    p = shares.double() / shares.double().sum()
    return float(torch.special.entr(p).sum() / math.log(len(p)))


__all__ = ["AWAY", "RegionQuestions", "checked_away", "entropy", "probabilities"]
