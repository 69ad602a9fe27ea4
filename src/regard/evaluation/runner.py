"""Methods × protocols × examples in memory: one function, deterministic, batched; a bad example becomes a row with its error.

A persistent runner calls the same functions on its shards. Nothing here knows of files or engines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regard.api.explain import explain_reading
from regard.attribution.table import method as method_row
from regard.errors import Misuse, RegardError
from regard.evaluation.data.eraser import Document
from regard.evaluation.protocols.perturbation import MEMORY, Perturbation, perturbation
from regard.evaluation.protocols.rationale import Rationale, rationale
from regard.evaluation.protocols.sanity import Sanity, sanity
from regard.evaluation.protocols.segmentation import Segmentation, segmentation
from regard.evaluation.rows import Example, Row, sample_of
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Reading
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.target import scores

if TYPE_CHECKING:
    from regard.reader import Reader

Protocol = Perturbation | Segmentation | Sanity
Method = str | tuple[str, Mapping[str, Any]]
Shape = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]


@dataclass
class Batch:
    """Examples whose tensors have one shape, so that none needs padding for another's sake."""

    examples: list[Example]
    predicted: list[int] = field(default_factory=list)

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
    methods: Sequence[Method],
    protocols: Sequence[Protocol],
    *,
    batch: int = 16,
    seed: int = 0,
    memory_budget: int = MEMORY,
) -> list[Row]:
    """Every method under every protocol on every example: rows, methods outer, then protocols, then examples as given.

    A method and a class are explained once for all protocols that ask for them. `batch` is how many examples are explained
    together; the rows do not depend on it. What fails on an example (its file, a NaN, a mask of another size) is its row's
    `error`; a wrong name of a method or an option is raised before anything runs.
    """
    named = [(m, {}) if isinstance(m, str) else (m[0], dict(m[1])) for m in methods]
    for name, options in named:
        _check(name, options)
    if len({e.name for e in examples}) != len(examples):
        raise Misuse("two examples have the same name; give each its own, or rows cannot be paired")
    refuse(model, False)
    found: dict[tuple[int, int, int], Row] = {}
    place = {e.name: i for i, e in enumerate(examples)}
    failed = {e.name: e.error for e in examples if e.error}
    batches = [b for some in _batches(examples, batch) for b in _answered(model, some, failed)]
    for some in batches:
        for m, (name, options) in enumerate(named):
            maps = _Maps(model, some, name, options, seed)
            for p, protocol in enumerate(protocols):
                for i, example in enumerate(some.examples):
                    found[m, p, place[example.name]] = _row(maps, i, protocol, seed, memory_budget)
    for m, (name, options) in enumerate(named):
        for p, protocol in enumerate(protocols):
            for example in (e for e in examples if e.name in failed):
                row = _failed(protocol, called(name, options), example, failed[example.name])
                found[m, p, place[example.name]] = row
    return [found[key] for key in sorted(found)]


def evaluate_documents(
    reader: Reader,
    documents: Sequence[Document],
    methods: Sequence[Method],
    protocols: Sequence[Rationale],
    *,
    seed: int = 0,
) -> list[Row]:
    """The same for documents with rationales, which a reader cuts into windows."""
    rows = []
    for name, options in (m if isinstance(m, tuple) else (m, {}) for m in methods):
        _check(name, options)
        label = called(name, options)
        for protocol in protocols:
            for document in documents:
                try:
                    row = rationale(reader, document, protocol, name, options, seed=seed, label=label)
                except Exception as e:
                    row = Row(protocol.name, label, document.name, label=document.label, error=said(e))
                rows.append(row)
    return rows


def said(e: BaseException) -> str:
    """An error as a row tells it: its kind and first line."""
    return f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"


def called(name: str, options: Mapping[str, Any]) -> str:
    """A method's name in a row, with its options; a baseline and a site as their labels say them."""
    return name + "".join(f", {k}={getattr(v, 'label', v)}" for k, v in sorted(options.items()))


def _check(name: str, options: Mapping[str, Any]) -> None:
    """Raise UnknownName for what neither the method nor `explain` takes."""
    method_row(name).check({k: v for k, v in options.items() if k not in ("baseline", "site")})


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


@dataclass
class _Maps:
    """The maps of one batch by one method, each class explained when first asked for."""

    model: nn.Module
    batch: Batch
    name: str
    options: dict[str, Any]
    seed: int
    made: dict[tuple[int, ...], Explanation] = field(default_factory=dict)

    def of(self, i: int, which: str) -> tuple[Explanation, int]:
        """The map of the i-th example for its predicted or true class, and that class."""
        if which == "predicted":
            classes = self.batch.predicted
        else:
            known = [e.label for e in self.batch.examples]
            if known[i] is None:
                raise Misuse(
                    f"example {self.batch.examples[i].name} has no label, so its true class cannot be explained"
                )
            classes = [p if c is None else c for c, p in zip(known, self.batch.predicted, strict=True)]
        key = tuple(classes)
        try:
            if key not in self.made:
                self.made[key] = self._explained(self.batch, classes)
            return sample_of(self.made[key], i), classes[i]
        except RegardError:  # of one of them: the others are explained without it
            return self._explained(Batch([self.batch.examples[i]]), [classes[i]]), classes[i]

    def _explained(self, batch: Batch, classes: Sequence[int]) -> Explanation:
        reading = batch.reading
        target = torch.tensor(classes)
        found = explain_reading(self.model, reading, target, self.name, seed=self.seed, **self.options)
        assert isinstance(found, Explanation)
        return found


def _row(maps: _Maps, i: int, protocol: Protocol, seed: int, memory_budget: int) -> Row:
    example, method = maps.batch.examples[i], called(maps.name, maps.options)
    try:
        explanation, explained = maps.of(i, protocol.explained)
        if isinstance(protocol, Segmentation):
            row = segmentation(explanation, example, protocol, method)
        elif isinstance(protocol, Sanity):
            row = sanity(maps.model, example, protocol, explained, maps.name, maps.options, seed=seed)
        else:
            row = perturbation(
                maps.model, explanation, example, protocol, method=method, explained=explained, seed=seed,
                memory_budget=memory_budget,
            )  # fmt: skip
    except Exception as e:
        return _failed(protocol, method, example, said(e))
    return dataclasses.replace(
        row,
        method=method,
        label=example.label,
        predicted=maps.batch.predicted[i],
        explained=explained,
        group=example.group,
    )


def _failed(protocol: Protocol, method: str, example: Example, error: str) -> Row:
    return Row(protocol.name, method, example.name, label=example.label, error=error, group=example.group)


__all__ = ["Method", "Protocol", "called", "evaluate_documents", "evaluate_rows"]
