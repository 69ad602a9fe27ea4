"""Methods × protocols × examples in memory: one function, deterministic, batched; a bad example becomes a row with its error.

A persistent runner calls the same functions on its shards. Nothing here knows of files or engines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from regard._explain import explain, rng_kept
from regard.attribution.table import method as method_row
from regard.errors import Misuse, RegardError
from regard.evaluation.perturbation import MEMORY, Perturbation, perturbation
from regard.evaluation.rows import Example, Row, sample_of
from regard.evaluation.segmentation import Segmentation, segmentation
from regard.explanation import Explanation, Reading
from regard.target import scores

Protocol = Perturbation | Segmentation
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
        method_row(name).check(options)
    if len({e.name for e in examples}) != len(examples):
        raise Misuse("two examples have the same name; give each its own, or rows cannot be paired")
    found: dict[tuple[int, int, int], Row] = {}
    place = {e.name: i for i, e in enumerate(examples)}
    for some in _batches(model, examples, batch):
        for m, (name, options) in enumerate(named):
            maps = _Maps(model, some, name, options, seed)
            for p, protocol in enumerate(protocols):
                for i, example in enumerate(some.examples):
                    row = _row(maps, i, protocol, seed, memory_budget)
                    found[m, p, place[example.name]] = row
    for m, (name, options) in enumerate(named):
        for p, protocol in enumerate(protocols):
            for i, e in enumerate(examples):
                if e.error:
                    found[m, p, i] = _failed(protocol, called(name, options), e, e.error)
    return [found[key] for key in sorted(found)]


def called(name: str, options: Mapping[str, Any]) -> str:
    """A method's name in a row, with its options."""
    return name + "".join(f", {k}={v}" for k, v in sorted(options.items()))


def _batches(model: nn.Module, examples: Sequence[Example], size: int) -> list[Batch]:
    """Examples of one shape side by side, with the model's answers; the good ones only."""
    groups: dict[Shape, list[Example]] = {}
    for e in examples:
        if not e.error:
            key = tuple((k, tuple(v.shape), v.dtype) for k, v in e.reading.inputs.items())
            groups.setdefault(key, []).append(e)
    batches = [Batch(g[i : i + size]) for g in groups.values() for i in range(0, len(g), size)]
    for some in batches:
        with torch.no_grad(), rng_kept(model):
            some.predicted = scores(model(**some.reading.inputs), None).argmax(-1).tolist()
    return batches


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
        found = explain(self.model, reading.inputs, target, self.name, seed=self.seed, _reading=reading, **self.options)
        assert isinstance(found, Explanation)
        return found


def _row(maps: _Maps, i: int, protocol: Protocol, seed: int, memory_budget: int) -> Row:
    example, method = maps.batch.examples[i], called(maps.name, maps.options)
    try:
        explanation, explained = maps.of(i, protocol.explained)
        if isinstance(protocol, Segmentation):
            row = segmentation(explanation, example, protocol, method)
        else:
            row = perturbation(
                maps.model, explanation, example, protocol, method=method, explained=explained, seed=seed,
                memory_budget=memory_budget,
            )  # fmt: skip
    except (RegardError, RuntimeError, IndexError, ValueError) as e:
        return _failed(protocol, method, example, f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}")
    return dataclasses.replace(row, label=example.label, predicted=maps.batch.predicted[i], explained=explained)


def _failed(protocol: Protocol, method: str, example: Example, error: str) -> Row:
    return Row(protocol.name, method, example.name, label=example.label, error=error)


__all__ = ["Batch", "Method", "Protocol", "called", "evaluate_rows"]
