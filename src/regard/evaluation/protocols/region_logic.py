"""Protocol 5, logic: does what a map says follow, on questions about regions whose answer's regions are known?

- **necessity**: without the top k units the answer changes; **sufficiency**: with the top k alone it stays;
- **redirection**: another word asked for, the map of the regions moves to what that word asks for;
- **absence**: asked for what is not there, no region dominates: the map is flatter than for what is there;
- **pointing**: the top region is one that the answer is read off (semantic interpretation).

Generic Interpretation Approach for Transformer Models Incorporating Heterogenous Attention Structures (arXiv 2605.27458);
formulas.md section 5. Equal scores are put in an order drawn from the seed and the question's name, or, where one top unit is
asked for, share the hit: a map that is flat gets what chance gives. Padding and special tokens compete with nothing.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from regard.errors import Misuse, nearest
from regard.evaluation.examples import checked
from regard.evaluation.protocols.perturbation import Perturbation, counted, order_of, rows_of, tie_seed
from regard.evaluation.protocols.protocol import EXPLAINED, ExampleMaps, GivenMaps, Protocol, Row
from regard.evaluation.protocols.region_questions import RegionQuestions, checked_away, entropy, probabilities
from regard.evaluation.protocols.segmentation import average_precision, pointing
from regard.explanation.explanation import Explanation

Units = Int[Tensor, " unit"]
SIGNS = ("signed", "absolute")
EVIDENCE = "evidence"


@dataclass(frozen=True)
class _Logic(Protocol):
    """What all tests choose.

    Attributes:
        sign: "signed": units in the order of their scores (shares: of the positive ones); "absolute": of their sizes.
        explained: the class that the map is for, the "predicted" or the "true" one.
    """

    kind: ClassVar[str] = "logic"
    test: ClassVar[str]

    sign: str = "signed"
    explained: str = "predicted"

    def __post_init__(self) -> None:
        for value, of, what in (
            (self.sign, SIGNS, "sign"),
            (self.explained, EXPLAINED, "class to explain"),
        ):
            if value not in of:
                raise nearest(value, of, what)

    @property
    def choices(self) -> tuple[str, ...]:
        """What else was chosen, as the name tells it."""
        return ()

    @property
    def name(self) -> str:
        """The full name."""
        return "/".join([self.kind, self.test, *self.choices, self.sign, self.explained])

    def run(self, maps: ExampleMaps, example: RegionQuestions) -> list[Row]:
        """Rows of all questions: one question or pair an example."""
        explanation, _ = maps.of(example, self.explained)
        check(explanation, example, self.explained)
        return self.judge(explanation, example, maps)

    @abstractmethod
    def judge(self, explanation: Explanation, data: RegionQuestions, maps: ExampleMaps) -> list[Row]:
        """The rows, of an explanation that fits the questions."""

    def taken(self, scores: Tensor) -> Tensor:
        """The scores as this test takes them."""
        return scores.abs() if self.sign == "absolute" else scores


@dataclass(frozen=True)
class _Taking(_Logic):
    """A test that takes units away.

    Attributes:
        k: how many units are the top, or "evidence": as many as the answer's evidence has (regions only).
        unit: "region" or "token" (of the text). away: how a unit is taken away, see region_questions.py; "": the first way.
    """

    k: int | str = 1
    unit: str = "region"
    away: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.away:
            object.__setattr__(self, "away", {"region": "mask", "token": "drop"}.get(self.unit, ""))
        checked_away(self.unit, self.away)
        if isinstance(self.k, str) and self.k != EVIDENCE:
            raise nearest(self.k, (EVIDENCE,), "number of top units")
        if not isinstance(self.k, str) and (isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1):
            raise Misuse(f"k is a number of units from 1 on, or {EVIDENCE!r}; it is {self.k}")
        if self.k == EVIDENCE and self.unit != "region":
            raise Misuse("the evidence is known of regions; give a number of tokens as k")

    @property
    def stream_goes(self) -> bool:
        """Whether nothing of the stream is left where all units are taken away (a text keeps its special tokens)."""
        return self.unit == "region" and self.away == "mask"

    @property
    def choices(self) -> tuple[str, ...]:
        """Unit, way, k."""
        return (f"{self.unit}-{self.away}", f"k={self.k}")

    @abstractmethod
    def gone(self, order: Units, k: int) -> Units:
        """The units that are taken away, of all in order."""

    @abstractmethod
    def values(self, same: float, fall: float) -> dict[str, float]:
        """The numbers of one question: whether the answer is the same, and how far its probability fell."""

    def judge(self, explanation: Explanation, data: RegionQuestions, maps: ExampleMaps) -> list[Row]:
        """Each question before and after."""
        taken, errors = torch.zeros_like(data.real(self.unit)), {}
        for i, order in enumerate(orders(explanation, data, self, maps.seed)):
            k = int(data.evidence[i].sum()) if isinstance(self.k, str) else self.k
            taken[i, self.gone(order, k)] = True
            if not k:
                errors[i] = "Misuse: no evidence is known of this question, so k is not; give a number"
            elif self.stream_goes and len(taken[i].nonzero()) >= len(order):
                errors[i] = (
                    f"Misuse: the top {k} are all regions there are, and attention needs one to look at; take a smaller k"
                )
        taken[[*errors]] = False
        every = torch.arange(len(data))
        before, after = (
            probabilities(maps.model, data, self.unit, self.away, every, t) for t in (torch.zeros_like(taken), taken)
        )
        rows = []
        for i, name in enumerate(data.names):
            said = int(before[i].argmax())
            known: dict[str, Any] = {"label": data.label(i), "predicted": said}
            known["explained"] = said if self.explained == "predicted" else int(data.labels[i])
            same = float(int(after[i].argmax()) == said)
            fall = float(before[i, known["explained"]] - after[i, known["explained"]])
            found = self.rows(name, self.values(same, fall), **known)
            rows += found if i not in errors else [Row(self, name, error=errors[i], **known)]
        return rows


@dataclass(frozen=True)
class Necessity(_Taking):
    """Without the top k the answer changes: `changed`; `fall` is p(explained) before less after."""

    test: ClassVar[str] = "necessity"
    question: ClassVar[str] = "Does the answer change without the top units of the map?"
    better: ClassVar[Mapping[str, int]] = {"changed": 1, "fall": 1}
    meanings: ClassVar[Mapping[str, str]] = {
        "changed": "how often the answer changes without the top units",
        "fall": "how far its probability falls without them",
    }

    def gone(self, order: Units, k: int) -> Units:
        """The top k."""
        return order[:k]

    def values(self, same: float, fall: float) -> dict[str, float]:
        """Whether the answer is the same, and how far its probability fell."""
        return {"changed": 1 - same, "fall": fall}


@dataclass(frozen=True)
class Sufficiency(_Taking):
    """With the top k of the unit alone (the other stream is whole) the answer stays: `stays`; `loss` is p before less after."""

    test: ClassVar[str] = "sufficiency"
    question: ClassVar[str] = "Does the answer stay with the top units of the map alone?"
    better: ClassVar[Mapping[str, int]] = {"stays": 1, "loss": -1}
    meanings: ClassVar[Mapping[str, str]] = {
        "stays": "how often the answer stays with the top units alone",
        "loss": "how far its probability falls with them alone",
    }

    def gone(self, order: Units, k: int) -> Units:
        """All but the top k."""
        return order[k:]

    def values(self, same: float, fall: float) -> dict[str, float]:
        """Whether the answer is the same, and how far its probability fell."""
        return {"stays": same, "loss": fall}


@dataclass(frozen=True)
class Redirection(_Logic):
    """Pairs of questions that differ in one word. Each value is the mean over both ways to read a pair, or holds for both.

    `redirected`: the top region is the one asked for before, and the newly asked one after. `shift`: by how much the share
    of the map on what is asked for has grown. `marked`: the text's map has the changed word at its top.
    """

    test: ClassVar[str] = "redirection"
    question: ClassVar[str] = "Does another question move the map to what it asks for?"
    better: ClassVar[Mapping[str, int]] = {"redirected": 1, "shift": 1, "marked": 1}
    known_answer: ClassVar[bool] = True
    meanings: ClassVar[Mapping[str, str]] = {
        "redirected": "how often the top region moves from what was asked for to what is asked for now",
        "shift": "how much the map's share on what is asked for grows",
        "marked": "how often the changed word is at the top of the text's map",
    }

    def judge(self, explanation: Explanation, data: RegionQuestions, *_: Any) -> list[Row]:
        """Each pair."""
        return _redirected(explanation, data, self)


@dataclass(frozen=True)
class Absence(_Logic):
    """Pairs of a question about what is not there and the same about what is: entropies of the regions' map, 0..1.

    `entropy_absent`, `entropy_present`, and their `difference`, which should be above 0; `largest_absent`, the largest share.
    """

    test: ClassVar[str] = "absence"
    question: ClassVar[str] = "Is the map flatter for what is not there than for what is?"
    better: ClassVar[Mapping[str, int]] = {"difference": 1}
    known_answer: ClassVar[bool] = True
    meanings: ClassVar[Mapping[str, str]] = {
        "difference": "how much flatter (in entropy, 0 to 1) the map is for what is not there"
    }

    def judge(self, explanation: Explanation, data: RegionQuestions, *_: Any) -> list[Row]:
        """Each pair."""
        return _absent(explanation, data, self)


@dataclass(frozen=True)
class Pointing(_Logic):
    """The top region is one that the answer is read off (`pointing`), or one of its evidence (`pointing_evidence`).

    `ap`: the average precision of the evidence in the order of the scores.

    Attributes:
        of: whose map: the "answer"'s, or the "asked" word's, the regions that it looks at (`Explanation.between`).
    """

    test: ClassVar[str] = "pointing"
    question: ClassVar[str] = "Does the map point at the region that the answer is read off?"
    better: ClassVar[Mapping[str, int]] = {"pointing": 1, "pointing_evidence": 1, "ap": 1}
    known_answer: ClassVar[bool] = True
    meanings: ClassVar[Mapping[str, str]] = {
        "pointing": "how often the top region is one that the answer is read off",
        "pointing_evidence": "how often the top region is one that the answer cannot be known without",
        "ap": "average precision of those regions in the order of the map",
    }
    of: str = "answer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of not in ("answer", "asked"):
            raise nearest(self.of, ("answer", "asked"), "map of the regions")

    @property
    def choices(self) -> tuple[str, ...]:
        """Whose map."""
        return (self.of,)

    def judge(self, explanation: Explanation, data: RegionQuestions, *_: Any) -> list[Row]:
        """Each question."""
        return _pointed(explanation, data, self)


@dataclass(frozen=True)
class QuestionPerturbation(Perturbation):
    """Perturbation of questions, their copies side by side: the regions or the words are taken away, a share at a time."""

    unit: str = "token"
    fill: str = "drop"

    def run(self, maps: ExampleMaps, example: RegionQuestions) -> list[Row]:  # type: ignore[override]
        """Curves of all questions."""
        explanation, _ = maps.of(example, self.explained)
        check(explanation, example, self.explained)
        return _perturbed(maps, explanation, example, self)


def logic(
    model: nn.Module,
    explanation: Explanation,
    data: RegionQuestions,
    setting: Protocol,
    method: str = "",
    seed: int = 0,
) -> list[Row]:
    """Rows of one method's maps of all questions: one example a question, or one a pair.

    Args:
        explanation: of `data.inputs`, for the class that `setting.explained` names. method: what tables call it (None: its
            name). seed: of the order of equal scores.
    """
    return GivenMaps(model=model, explanation=explanation, title=method, seed=seed).rows(setting, data)


def check(explanation: Explanation, data: RegionQuestions, which: str) -> None:
    """Raise Misuse where maps are not of these questions, or not for the class that the protocol names."""
    for stream in (data.regions, data.words):
        if stream not in explanation.scores:
            raise nearest(stream, explanation.scores, "stream of the explanation")
        if explanation.scores[stream].shape != data.inputs[stream].shape[:2]:
            raise Misuse(f"the maps of {stream!r} are not of these {len(data)} questions")
    receipt = explanation.receipt
    wanted = receipt.predicted if which == "predicted" else data.labels
    if receipt.explained is None or wanted is None:
        raise Misuse("the target must be a class, so that the answer is known: Target.logit(..., output=...)")
    other = receipt.explained.cpu() != wanted.cpu()
    if bool(other.any()):
        raise Misuse(
            f"the protocol is about the {which} class, but the map of question {data.names[int(other.nonzero()[0])]} is for "
            "another one"
        )


# -- taking away -------------------------------------------------------------------------------------------------------


def orders(explanation: Explanation, data: RegionQuestions, setting: _Taking, seed: int) -> list[Units]:
    """For each question its units that can be taken away, from the top down."""
    scores = setting.taken(checked(explanation.scores[data.stream(setting.unit)], "map"))
    return [
        _order(scores[i], real, "positive", tie_seed(seed, name))
        for i, (real, name) in enumerate(zip(data.real(setting.unit), data.names, strict=True))
    ]


def _order(scores: Float[Tensor, " unit"], real: Bool[Tensor, " unit"], order: str, seed: int) -> Units:
    at = real.nonzero()[:, 0]
    return at[order_of(scores[at], order, seed)]


def _perturbed(
    maps: ExampleMaps, explanation: Explanation, data: RegionQuestions, setting: QuestionPerturbation
) -> list[Row]:
    """Curves of all questions, their copies side by side."""
    unit = {data.regions: "region", data.words: "token"}.get(setting.stream or "")
    if unit is None or setting.unit != "token" or setting.fill != "drop":
        streams = f"{data.regions!r} or {data.words!r}"
        raise Misuse(
            f"units of questions are tokens that are dropped, stream= {streams}: QuestionPerturbation(stream=...)"
        )
    scores, real = checked(explanation.scores[data.stream(unit)], "map"), data.real(unit)
    counts, taken = (
        [0.0, *setting.steps],
        torch.zeros(len(data), len(setting.steps) + 1, real.shape[1], dtype=torch.bool),
    )
    errors: dict[int, str] = {}
    for i, name in enumerate(data.names):
        order = _order(scores[i], real[i], setting.order, tie_seed(maps.seed, name))
        for step, share in enumerate(counts):
            taken[i, step, order[: counted(share, len(order))]] = True
        if unit == "region" and counted(counts[-1], len(order)) >= len(order):
            errors[i] = "Misuse: a step takes all regions away, and attention needs one to look at; end before 1"
    taken[[*errors]] = False
    copies = torch.arange(len(data)).repeat_interleave(len(counts))
    away = "mask" if unit == "region" else "drop"
    p = probabilities(maps.model, data, unit, away, copies, taken.flatten(0, 1)).unflatten(0, (len(data), len(counts)))
    rows = []
    for i, name in enumerate(data.names):
        found = rows_of(p[i], name, data.label(i), setting)
        rows += [replace(found[0], metric="", value=math.nan, error=errors[i])] if i in errors else found
    return rows


# -- looking -----------------------------------------------------------------------------------------------------------


def _redirected(explanation: Explanation, data: RegionQuestions, setting: Redirection) -> list[Row]:
    regions, real = setting.taken(checked(explanation.scores[data.regions], "map")), data.real("region")
    words, content = setting.taken(checked(explanation.scores[data.words], "map")), data.real("token")
    found = []
    for i, j in data.redirections.tolist():
        tops, shifts, marks = [], [], []
        for a, b in ((i, j), (j, i)):  # a is asked now, b is the other one
            own = asked_now(data.source[a], data.source[b])
            tops.append(_pointing(regions[a], own, real[a]))
            shifts.append(_share(regions[a], own, real[a]) - _share(regions[b], own, real[b]))
            marks.append(_pointing(words[a], torch.arange(words.shape[1]) == data.asked[a], content[a]))
        values = {"redirected": tops[0] * tops[1], "shift": sum(shifts) / 2, "marked": marks[0] * marks[1]}
        found += _paired(explanation, data, setting, (i, j), values)
    return found


def asked_now(source: Bool[Tensor, " region"], other: Bool[Tensor, " region"]) -> Bool[Tensor, " region"]:
    """The regions of one question that the other one is not about; all of them, where there are none such."""
    alone = source & ~other
    return alone if bool(alone.any()) else source


def _absent(explanation: Explanation, data: RegionQuestions, setting: Absence) -> list[Row]:
    scores, real = setting.taken(checked(explanation.scores[data.regions], "map")).clamp(min=0), data.real("region")
    found = []
    for i, j in data.absences.tolist():
        absent, there = (entropy(scores[a][real[a]]) for a in (i, j))
        p = scores[i][real[i]]
        values = {"entropy_absent": absent, "entropy_present": there, "difference": absent - there}
        values["largest_absent"] = float(p.max() / p.sum())
        found += _paired(explanation, data, setting, (i, j), values)
    return found


def _pointed(explanation: Explanation, data: RegionQuestions, setting: Pointing) -> list[Row]:
    maps = explanation.scores[data.regions] if setting.of == "answer" else asked_rows(explanation, data)
    scores, real = setting.taken(checked(maps, "map")), data.real("region")
    found = []
    for i in range(len(data)):
        if not bool((data.source[i] & real[i]).any()) or (setting.of == "asked" and data.asked[i] < 0):
            error = "Misuse: no region is known that this answer is read off, or no word that is asked for"
            found.append(Row(setting, data.names[i], error=error, **_known(explanation, data, i)))
            continue
        values = {
            "pointing": _pointing(scores[i], data.source[i], real[i]),
            "pointing_evidence": _pointing(scores[i], data.evidence[i], real[i]),
            "ap": average_precision(scores[i][real[i]], data.evidence[i][real[i]]),
        }
        found += setting.rows(data.names[i], values, **_known(explanation, data, i))
    return found


def asked_rows(explanation: Explanation, data: RegionQuestions) -> Float[Tensor, "question region"]:
    """The regions that each question's asked word looks at; where nothing is asked for, any."""
    tokens = data.asked.clamp(min=0).unique().tolist()
    rows = explanation.between(data.words, data.regions, tokens)
    at = torch.tensor([tokens.index(token) for token in data.asked.clamp(min=0).tolist()])
    return rows[torch.arange(len(data)), at.to(rows.device)]


def _pointing(scores: Tensor, truth: Tensor, real: Tensor) -> float:
    """Whether the top unit is one of the right ones; of several equal ones at the top, the share that is."""
    return pointing(scores[real], truth[real])


def _share(scores: Tensor, truth: Tensor, real: Tensor) -> float:
    """The share of the map's positive part that is on the right units; NaN where there is nothing."""
    p = scores.clamp(min=0) * real
    return float(p[truth].sum() / p.sum())


def _known(explanation: Explanation, data: RegionQuestions, i: int) -> dict[str, Any]:
    """One question's classes."""
    receipt = explanation.receipt
    said, explained = (None if t is None else int(t[i]) for t in (receipt.predicted, receipt.explained))
    return {"label": data.label(i), "predicted": said, "explained": explained}


def _paired(
    explanation: Explanation, data: RegionQuestions, setting: _Logic, pair: Sequence[int], values: dict[str, float]
) -> list[Row]:
    """One pair's rows, named by both; label and answer are those of the second one."""
    name = " > ".join(data.names[i] for i in pair)
    return setting.rows(name, values, **_known(explanation, data, pair[1]))


__all__ = [
    "Absence",
    "Necessity",
    "Pointing",
    "QuestionPerturbation",
    "Redirection",
    "Sufficiency",
    "asked_now",
    "asked_rows",
    "logic",
    "orders",
]
