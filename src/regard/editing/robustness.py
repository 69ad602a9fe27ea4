"""How little rewrites a model's answers: the smallest budgets of many pictures, what files lose, what gives them away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from regard.editing.asked import probabilities
from regard.editing.budget import checked_budget
from regard.editing.file_changes import FileChange, through
from regard.editing.pictures import rewrite_pictures
from regard.editing.rewrite import Told
from regard.editing.suspicion import Suspicion, suspicions
from regard.errors import InputError, Misuse
from regard.explanation.rewriting import Rewriting
from regard.models.pictures import read_picture
from regard.models.reading import RawReader

MOST = 10
"""Classes up to which every picture is rewritten to every other one; where there are more, to the second likeliest."""
SIZES = (1, 2, 4)
"""Budgets of 255 that shares are told for."""
TOGETHER = 16
FEW = "fewer than two pictures were rewritten, so nothing is said of files and of what gives them away"


class ClassPair(NamedTuple):
    """From one class to another: of how many pictures, and the least, the (lower) median and the most of the smallest budgets.

    A budget is infinite where none was found.
    """

    was: int
    to: int
    pictures: int
    least: float
    median: float
    most: float


@dataclass
class Robustness:
    """What was found of a model on some pictures.

    Attributes:
        names: of the pictures. labels: of the classes. was: the class of each picture.
        smallest: (picture, class), the smallest budget found in L∞ to rewrite a picture to a class, in pixels from 0 to 1;
            infinite where none was found up to `budget`, NaN where it was not asked for.
        files: which change was made of each picture ("smallest", or "surest" within the budget) -> what becomes of the files.
        told_apart: the same -> how well numbers tell rewritten pictures from originals.
        rounded: the same -> the share of changes, sought in numbers of any size, that survive rounding to 8 bits afterwards.
        examples: how many rewritten pictures these are of. notes: what else there is to know.
    """

    names: list[str]
    labels: list[str]
    was: Int[Tensor, " picture"]
    smallest: Float[Tensor, "picture class"]
    budget: float
    files: dict[str, list[FileChange]] = field(default_factory=dict)
    told_apart: dict[str, list[Suspicion]] = field(default_factory=dict)
    rounded: dict[str, float] = field(default_factory=dict)
    examples: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def asked(self) -> Bool[Tensor, "picture class"]:
        """Which pictures were to be rewritten to which classes."""
        return ~self.smallest.isnan()

    def share(self, budget: float, any_class: bool = False) -> float:
        """The share of (picture, class) that a budget rewrites; `any_class`: of pictures, to some class at least."""
        found = self.asked & (self.smallest <= budget * (1 + 1e-6))
        if any_class:
            return float(found.any(1)[self.asked.any(1)].float().mean())
        return float(found[self.asked].float().mean())

    def label(self, c: int) -> str:
        """What a class is called."""
        return self.labels[c] if c < len(self.labels) else f"class {c}"

    def pairs(self) -> list[ClassPair]:
        """The smallest budgets from every class to every other one that was asked for."""
        out = []
        for a in sorted(set(self.was.tolist())):
            rows = self.smallest[self.was == a]
            for b in range(rows.shape[1]):
                values = rows[:, b][~rows[:, b].isnan()].sort().values
                if len(values):
                    least, median, most = (float(values[i]) for i in (0, (len(values) - 1) // 2, -1))
                    out.append(ClassPair(a, b, len(values), least, median, most))
        return out


def robustness(
    reader: RawReader,
    pictures: Sequence[Any],
    to: Sequence[int] | None = None,
    budget: float = 4 / 255,
    *,
    steps: int = 40,
    seed: int = 0,
    told: Told | None = None,
) -> Robustness:
    """Rewrite every picture to every class asked for with the smallest budget that suffices, in L∞, up to `budget`.

    Then each picture is rewritten to the class that takes least, once with that smallest change and once with the surest within
    `budget`, and it is measured what changes of the file do to these, and what gives them away.

    Raises what `regard.rewrite` raises, InputError for no pictures, Misuse without scikit-learn (`regard[eval]`).
    """
    if not pictures:
        raise InputError("there are no pictures to rewrite")
    budget = checked_budget(budget)
    if budget < 1 / 255:
        raise Misuse("the budget is less than one level of an 8-bit file, 1/255: nothing could change")
    read = [read_picture(p, i) for i, p in enumerate(pictures)]
    raws = [pixels for pixels, _ in read]
    p = torch.cat([_predicted(reader, raws[i : i + TOGETHER]) for i in range(0, len(raws), TOGETHER)])
    asked = _pairs(p, to)
    progress = _Progress(told, len(asked) + 4 * len(raws))
    how: dict[str, Any] = {"budget": budget, "steps": steps, "seed": seed, "maps": False}
    smallest = torch.full(p.shape, torch.nan)
    for some in _chunks(asked):
        found = _rewritten(reader, raws, some, minimal=True, **how)
        rows, columns = torch.tensor(some).T
        smallest[rows, columns] = torch.where(found.success, found.linf.float(), torch.inf)
        progress.more(len(some))
    out = Robustness([name for _, name in read], list(reader.labels), p.argmax(1), smallest, budget)
    _measure(out, reader, raws, how, progress)
    return out


def _predicted(reader: RawReader, raws: list[Any]) -> Tensor:
    """The probabilities of all classes for some pictures, (picture, class)."""
    return probabilities(reader.model, reader.read_noted(raws, False)[0].inputs)


def _pairs(p: Float[Tensor, "n class"], to: Sequence[int] | None) -> list[tuple[int, int]]:
    """Which pictures are to be rewritten to which classes."""
    order = p.argsort(1, descending=True)
    if to is None and p.shape[1] > MOST:
        return [(i, int(c)) for i, c in enumerate(order[:, 1])]
    some = range(p.shape[1]) if to is None else dict.fromkeys(to)
    return [(i, c) for c in some for i in range(len(p)) if c != int(order[i, 0])]


def _chunks(pairs: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    return [pairs[i : i + TOGETHER] for i in range(0, len(pairs), TOGETHER)]


def _rewritten(reader: RawReader, raws: list[Any], pairs: list[tuple[int, int]], **how: Any) -> Rewriting:
    return rewrite_pictures(reader, [raws[i] for i, _ in pairs], torch.tensor([c for _, c in pairs]), **how)


def _measure(out: Robustness, reader: RawReader, raws: list[Any], how: dict[str, Any], told: _Progress) -> None:
    """What becomes of each picture's easiest rewriting, the smallest and the surest, as a file; and what gives them away."""
    best = torch.where(out.asked, out.smallest, torch.inf)
    pairs = [(i, int(best[i].argmin())) for i in range(len(raws)) if bool(best[i].isfinite().any())]
    out.examples = len(pairs)
    if len(pairs) < 2:
        out.notes.append(FEW)
        return
    for kind, minimal in (("smallest", True), ("surest", False)):
        done = _all_of(reader, raws, pairs, told, minimal=minimal, **how)
        before, after = ([x for d in done for x in getattr(d, side)] for side in ("before", "after"))
        was, to = (torch.cat([getattr(d, name) for d in done]) for name in ("was", "to"))
        out.files[kind] = through(reader, before, after, was, to)
        out.told_apart[kind] = suspicions(reader, before, after, how["seed"])
        late = _all_of(reader, raws, pairs, told, minimal=minimal, levels=None, **how)
        out.rounded[kind] = float(torch.cat([d.success for d in late]).float().mean())


def _all_of(
    reader: RawReader, raws: list[Any], pairs: list[tuple[int, int]], told: _Progress, **how: Any
) -> list[Rewriting]:
    """The rewritings of some pictures, batch by batch."""
    done = []
    for some in _chunks(pairs):
        done.append(_rewritten(reader, raws, some, **how))
        told.more(len(some))
    return done


@dataclass
class _Progress:
    """How many rewritings are done, of how many."""

    told: Told | None
    total: int
    done: int = 0

    def more(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        if self.told is not None:
            self.told("rewriting", self.done, self.total)
