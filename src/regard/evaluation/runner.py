"""Methods × protocols × examples in memory: one function, deterministic, batched; a bad example becomes a row with its error.

A persistent runner calls the same functions on its shards. Nothing here knows of files or engines, and nothing of any one
protocol.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from regard.api.explain import explain_reading
from regard.errors import Misuse, RegardError
from regard.evaluation.data.eraser import Document
from regard.evaluation.examples import Example
from regard.evaluation.protocols.protocol import MEMORY, ChosenMaps, Judged, MethodChoice, Protocol, Row, said
from regard.evaluation.protocols.rationale import ReadMaps
from regard.evaluation.protocols.windows import ReaderOfTexts
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Reading
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.target import scores

Choice = str | tuple[str, Mapping[str, Any]]
Shape = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]


@dataclass
class Batch:
    """Examples whose tensors have one shape, so that none needs padding for another's sake."""

    examples: list[Example]
    predicted: list[int] = field(default_factory=list)

    def at(self, example: Example) -> int:
        """The number of an example."""
        return next(i for i, e in enumerate(self.examples) if e is example)

    @property
    def reading(self) -> Reading:
        """Their readings as one."""
        parts = [e.reading for e in self.examples]

        def joined(dicts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {k: torch.cat([d[k] for d in dicts]) for k in dicts[0]}

        raw = {k: [p.raw[k][0] for p in parts] for k in parts[0].raw if all(k in p.raw for p in parts)}
        special = joined([p.special for p in parts])
        return dataclasses.replace(parts[0], inputs=joined([p.inputs for p in parts]), raw=dict(raw), special=special)


def evaluate_rows(
    model: nn.Module,
    examples: Sequence[Example],
    methods: Sequence[Choice],
    protocols: Sequence[Protocol],
    *,
    batch: int = 16,
    seed: int = 0,
    memory_budget: int = MEMORY,
    together: bool = False,
) -> list[Row]:
    """Every method under every protocol on every example: rows, methods outer, then protocols, then examples as given.

    A method and a class are explained once for all protocols that ask for them. `batch` is how many examples are explained
    together; the rows do not depend on it. What fails on an example (its file, a NaN, a mask of another size) is its row's
    `error`; a wrong name of a method or an option is raised before anything runs.

    together: methods without options are explained in one call, so that they share what they can; the time of a map is then its
    share of that call's.
    """
    chosen = _chosen(methods)
    beside = [c.name for c in chosen if not c.options] if together else []
    if len({e.name for e in examples}) != len(examples):
        raise Misuse("two examples have the same name; give each its own, or rows cannot be paired")
    refuse(model, False)
    found: dict[tuple[int, int, int], list[Row]] = {}
    place = {e.name: i for i, e in enumerate(examples)}
    failed = {e.name: e.error for e in examples if e.error}
    batches = [b for some in _batches(examples, batch) for b in _answered(model, some, failed)]
    for some in batches:
        how: dict[str, Any] = {"batch": some, "seed": seed, "memory_budget": memory_budget, "kept": {}, "pool": {}}
        for m, choice in enumerate(chosen):
            maps = _BatchMaps(model=model, choice=choice, beside=beside if choice.name in beside else (), **how)
            for p, protocol in enumerate(protocols):
                for example, predicted in zip(some.examples, some.predicted, strict=True):
                    known = {"label": example.label, "group": example.group, "predicted": predicted}
                    found[m, p, place[example.name]] = _tried(maps, protocol, example, known)
    for m, choice in enumerate(chosen):
        for p, protocol in enumerate(protocols):
            for example in (e for e in examples if e.name in failed):
                row = _failed(protocol, example, failed[example.name])
                found[m, p, place[example.name]] = [dataclasses.replace(row, **choice.columns())]
    return [row for key in sorted(found) for row in found[key]]


def evaluate_documents(
    reader: ReaderOfTexts,
    documents: Sequence[Document],
    methods: Sequence[Choice],
    protocols: Sequence[Protocol],
    *,
    seed: int = 0,
) -> list[Row]:
    """The same for documents with rationales, which a reader cuts into windows."""
    rows: list[Row] = []
    for choice in _chosen(methods):
        maps = ReadMaps(reader=reader, choice=choice, seed=seed)
        for protocol in protocols:
            for document in documents:
                rows += _tried(maps, protocol, document)
    return rows


def _chosen(methods: Sequence[Choice]) -> list[MethodChoice]:
    """The methods, their options checked."""
    chosen = [MethodChoice.of(m) for m in methods]
    for choice in chosen:
        choice.check()
    return chosen


def _tried(
    maps: Judged, protocol: Protocol, example: Example | Document, known: Mapping[str, Any] = MappingProxyType({})
) -> list[Row]:
    """A protocol's rows of an example, with what is known of it; or the one row that says why there are none."""
    started, maps.shared = time.perf_counter(), 0.0
    try:
        rows = [dataclasses.replace(row, **known) for row in maps.rows(protocol, example)]
    except Exception as e:
        rows = [dataclasses.replace(_failed(protocol, example, said(e)), **maps.columns())]
    seconds = max(time.perf_counter() - started + maps.shared, 0.0)
    return [dataclasses.replace(row, seconds=seconds) for row in rows]


def _failed(protocol: Protocol, example: Example | Document, error: str) -> Row:
    group = example.group if isinstance(example, Example) else ""
    return Row(protocol, example.name, label=example.label, error=error, group=group)


def _batches(examples: Sequence[Example], size: int) -> list[Batch]:
    """Examples of one shape side by side; the good ones only."""
    groups: dict[Shape, list[Example]] = {}
    for e in examples:
        if not e.error:
            key = tuple((k, tuple(v.shape), v.dtype) for k, v in e.reading.inputs.items())
            groups.setdefault(key, []).append(e)
    return [Batch(g[i : i + size]) for g in groups.values() for i in range(0, len(g), size)]


def _answered(model: nn.Module, batch: Batch, failed: dict[str, str]) -> list[Batch]:
    """The batch with the model's answers; where the model cannot run on it, its examples one by one, the bad ones `failed`."""
    try:
        with torch.no_grad(), rng_kept(model):
            batch.predicted = scores(model(**batch.reading.inputs), None).argmax(-1).tolist()
        return [batch]
    except Exception as e:
        if len(batch.examples) == 1:
            failed[batch.examples[0].name] = said(e)
            return []
    return [b for e in batch.examples for b in _answered(model, Batch([e]), failed)]


@dataclass(kw_only=True)
class _BatchMaps(ChosenMaps):
    """The maps of one batch by one method, each class explained when first asked for.

    beside: methods that are explained in one call with it. pool: classes -> what came of such calls, and the seconds of each
    map; methods share it.
    """

    batch: Batch
    beside: Sequence[str] = ()
    pool: dict[tuple[int, ...], tuple[dict[str, Explanation], float]] = field(default_factory=dict)
    made: dict[tuple[int, ...], Explanation] = field(default_factory=dict)
    share: dict[tuple[int, ...], float] = field(default_factory=dict)

    def of(self, example: Example, explained: str) -> tuple[Explanation, int]:
        """The map of an example of the batch for its predicted or true class, and that class."""
        i = self.batch.at(example)
        if explained == "predicted":
            classes = self.batch.predicted
        else:
            known = [e.label for e in self.batch.examples]
            if known[i] is None:
                raise Misuse(f"example {example.name} has no label, so its true class cannot be explained")
            classes = [p if c is None else c for c, p in zip(known, self.batch.predicted, strict=True)]
        key = tuple(classes)
        try:
            if key not in self.made:
                started = time.perf_counter()
                pooled, each = self._pooled(key)
                self.made[key] = pooled or self._explained(self.batch, classes)
                took = time.perf_counter() - started
                self.share[key] = (each if pooled else took) / len(classes)
                self.shared -= took
            self.shared += self.share[key]
            return self.made[key][i], classes[i]
        except RegardError:  # of one of them: the others are explained without it
            return self._explained(Batch([example]), [classes[i]]), classes[i]

    def _pooled(self, classes: tuple[int, ...]) -> tuple[Explanation | None, float]:
        """The map that came of one call with others, and its seconds; None where there was no such call, or it failed."""
        if len(self.beside) < 2:
            return None, 0.0
        if classes not in self.pool:
            started = time.perf_counter()
            found = self._together(self.batch.reading, torch.tensor(classes))
            self.pool[classes] = found, (time.perf_counter() - started) / len(self.beside)
        every, each = self.pool[classes]
        return every.get(self.choice.title), each

    def _together(self, reading: Reading, target: Tensor) -> dict[str, Explanation]:
        """One call for all methods that are beside one another; nothing where one of them fails."""
        try:
            found = explain_reading(self.model, reading, target, self.beside, seed=self.seed)
        except Exception:  # each is explained by itself, and has an error of its own
            return {}
        return dict(zip(self.beside, found, strict=True))

    def again(self, reading: Reading, target: Any) -> dict[str, Explanation]:
        """As all `ChosenMaps` have it."""
        found = self._together(reading, target) if len(self.beside) > 1 else {}
        return found or super().again(reading, target)

    def _explained(self, batch: Batch, classes: Sequence[int]) -> Explanation:
        return map_of(self.model, batch, self.choice, classes, self.seed)


def map_of(
    model: nn.Module, batch: Batch, choice: MethodChoice, classes: Sequence[int] | None = None, seed: int = 0
) -> Explanation:
    """The map of a batch by one method, for its predicted classes unless others are given."""
    target = torch.tensor(batch.predicted if classes is None else classes)
    found = explain_reading(model, batch.reading, target, choice.name, seed=seed, **choice.options)
    assert isinstance(found, Explanation)
    return found


def answered(model: nn.Module, example: Example) -> Batch | None:
    """One example with the model's answer; None where it cannot be read, or the model cannot run on it."""
    return next(iter([] if example.error else _answered(model, Batch([example]), {})), None)


__all__ = ["Batch", "Choice", "answered", "evaluate_documents", "evaluate_rows", "map_of"]
