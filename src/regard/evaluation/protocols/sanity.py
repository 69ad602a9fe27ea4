"""Protocol 7, sanity: is the map of this model, of this class, and of this sample alone?

Cascading randomisation of parameters, last to first (Adebayo et al. 2018): a map that does not change is not of the model.
Maps of two classes that are both there must differ. The same call twice, in a batch or alone, with more padding or less, must
give the same map. Each is a function to one row; the model comes back bit for bit, also after an exception.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from regard.api.explain import explain_reading
from regard.errors import Misuse, nearest
from regard.evaluation.examples import Example, checked, stream_of
from regard.evaluation.protocols.protocol import ChosenMaps, Protocol, Row
from regard.evaluation.rank_agreement import spearman
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Reading
from regard.recording.frames import list_elements

Scores = Float[Tensor, " token"]
Options = Mapping[str, Any]
SAME = 1e-6
MORE = 5
"""Padded tokens that are added to a text."""
CHECKS = {
    "cascade": "cascading-randomisation/last-to-first/normal/spearman",
    "weights": "head-then-all-weights-drawn-anew/normal/spearman",
    "classes": "class-sensitivity/two-present-classes",
    "repeat": "repeatability",
    "batch": "batch=single",
    "padding": f"padding-invariance/right+{MORE}",
}


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters by block (the outermost element of a list of modules), else by module; in the order of registration."""
    blocks = sorted(list_elements(model), key=len)
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        owner = next((b for b in blocks if name.startswith(b + ".")), name.rpartition(".")[0] or "(model)")
        groups.setdefault(owner, []).append(parameter)
    return groups


@dataclass(frozen=True)
class Sanity(Protocol):
    """A check: "cascade", "weights" (in two steps), "classes" (the label against `Example.other`), "repeat", "batch" or
    "padding".

    None is a contest: maps that turn round when parameters are drawn anew are no better than maps that lose their likeness.
    Only a map that stays the same is worse.
    """

    kind: ClassVar[str] = "sanity"
    question: ClassVar[str] = "Is the map of this model, of this class, and of this example alone?"
    better: ClassVar[Mapping[str, int]] = {"unchanged": -1}
    headlines: ClassVar[tuple[str, ...]] = ("mean", "similarity", "relative")
    axis: ClassVar[str] = "groups of parameters drawn anew, the last first"
    behind: ClassVar[Mapping[str, str]] = {"change": "similarity"}

    meanings: ClassVar[Mapping[str, str]] = {"unchanged": "how often the map stays the same where it must change"}

    check: str = "weights"
    explained: str = "true"

    def __post_init__(self) -> None:
        if self.check not in CHECKS:
            raise nearest(self.check, CHECKS, "sanity check")

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.kind}/{CHECKS[self.check]}/{self.explained}"

    def run(self, maps: ChosenMaps, example: Example) -> list[Row]:
        """One example's rows."""
        explanation, target = maps.of(example, self.explained)
        assert target is not None
        how, options = maps.choice.name, maps.choice.options
        if self.check == "weights":
            return self.rows(
                example.name, self._two_steps(maps, example, target), label=example.label, explained=target
            )
        if self.check == "batch":
            together = checked(explanation.scores[_stream(explanation, example)][0], "map")
            alone = _map(maps.model, example, target, how, options, maps.seed)
            return self.rows(example.name, _apart(alone, together), label=example.label, explained=target)
        return sanity(maps.model, example, self, target, how, options, seed=maps.seed)

    def _two_steps(self, maps: ChosenMaps, example: Example, target: int) -> dict[str, float]:
        explanation, _ = maps.of(example, self.explained)
        known = maps.kept.setdefault((self, example.name, target), {})
        if maps.choice.title not in known:
            known.update(redrawn(maps.model, maps, example, target, float(explanation.receipt.target_value[0])))
        if maps.choice.title not in known:
            raise Misuse("no weights of this model move the target, so that none can be drawn anew")
        return two_steps(
            checked(explanation.scores[_stream(explanation, example)][0], "map"), known.pop(maps.choice.title)
        )


def sanity(
    model: nn.Module, example: Example, setting: Sanity, target: int, method: str = "gae", options: Options | None = None, *,
    seed: int = 0,
) -> list[Row]:  # fmt: skip
    """The rows of one check, by the check's own function."""
    if setting.check == "classes":
        if example.other is None:
            raise Misuse(f"example {example.name} names no second class that is present")
        rows = class_sensitivity(model, example, target, example.other, method, options, seed=seed)
    else:
        made = {"cascade": cascade, "repeat": repeatability, "padding": padding_invariance}[setting.check]
        rows = made(model, example, target, method, options, seed=seed)
    return [replace(row, protocol=setting) for row in rows]


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers come back bit for bit, whatever is written into them within."""
    tensors = [*model.parameters(), *model.buffers()]
    kept = [t.detach().clone() for t in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for t, old in zip(tensors, kept, strict=True):
                t.copy_(old)


def randomise(parameter: nn.Parameter, generator: torch.Generator) -> None:
    """Normal values with the parameter's own mean and deviation; one that holds a single value has learned none, and stays."""
    if not parameter.is_floating_point():
        raise Misuse(f"a parameter is {parameter.dtype}; only floating parameters can be drawn anew")
    with torch.no_grad():
        old = parameter.float()
        drawn = torch.randn(parameter.shape, generator=generator).to(old)
        parameter.copy_(old.mean() + drawn * old.std(correction=0))


def cascade(
    model: nn.Module,
    example: Example,
    target: int,
    method: str = "gae",
    options: Options | None = None,
    *,
    seed: int = 0,
) -> list[Row]:
    """Rank correlation of the map with what it becomes as groups of parameters are drawn anew, from the last to the first.

    The curves `similarity` (Spearman, beginning with 1 for the model itself) and `change` (see `distance`); `final`, and
    `unchanged`: 1 where even the last map is the first one. (A method that reads no weights near the output may well stay
    unchanged in the first steps.)
    """
    generator = torch.Generator().manual_seed(seed)
    first = _map(model, example, target, method, options, seed)
    alike, change = [1.0], [0.0]
    with restored(model):
        for group in reversed(parameter_groups(model).values()):
            for parameter in group:
                randomise(parameter, generator)
            now = _map(model, example, target, method, options, seed)
            alike.append(similarity(first, now))
            change.append(distance(first, now))
    values = {"final": alike[-1], "mean": sum(alike[1:]) / len(alike[1:])}
    values["unchanged"] = float(change[-1] <= SAME)
    curves = {"similarity": enumerate(alike), "change": enumerate(change)}
    return Sanity("cascade").rows(example.name, values, curves, label=example.label, explained=target)


Redrawn = tuple[tuple[Scores, float], tuple[Scores, float]]
"""A map and the target's value with a new head, and with all weights new."""


def redrawn(model: nn.Module, maps: ChosenMaps, example: Example, target: int, y: float) -> dict[str, Redrawn]:
    """Maps of a model whose weights are drawn anew, by the titles of the methods that share a call: the last weights that move
    the target, then all. `y` is the target as it was."""
    generator = torch.Generator().manual_seed(maps.seed)
    groups = list(reversed(parameter_groups(model).values()))
    head: dict[str, tuple[Scores, float]] = {}
    with restored(model):
        for group in groups:
            for parameter in group:
                randomise(parameter, generator)
            if not head:
                now = _again(maps, example, target)
                moved = abs(next(iter(now.values()))[1] - y) > SAME * max(1.0, abs(y))
                head = now if moved else {}
        last = _again(maps, example, target) if head else {}
    return {title: (head[title], last[title]) for title in head}


def _again(maps: ChosenMaps, example: Example, target: int) -> dict[str, tuple[Scores, float]]:
    known = example.reading
    reading = Reading(dict(known.inputs), {}, known.special, known.labels, known.mean, known.std)
    found = maps.again(reading, torch.tensor([target]))
    return {
        t: (checked(e.scores[_stream(e, example)][0], "map"), float(e.receipt.target_value[0]))
        for t, e in found.items()
    }


def two_steps(first: Scores, drawn: Redrawn) -> dict[str, float]:
    """The rank correlation of a map with what it becomes with a new head (`head`), and with all weights new (`final`), and 1
    where it is the same map, to rounding (`head_unchanged`, `unchanged`).

    A map that outlasts a new head does not rest on which class is asked for.
    """
    (head, _), (last, _) = drawn
    return {
        "head": similarity(first, head),
        "head_unchanged": float(distance(first, head) <= SAME),
        "final": similarity(first, last),
        "unchanged": float(distance(first, last) <= SAME),
    }


def class_sensitivity(
    model: nn.Module, example: Example, target: int, other: int, method: str = "gae", options: Options | None = None, *,
    seed: int = 0,
) -> list[Row]:  # fmt: skip
    """How far the maps of two classes that are both present differ."""
    a, b = (_map(model, example, c, method, options, seed) for c in (target, other))
    values = {"similarity": similarity(a, b), "change": distance(a, b), "unchanged": float(distance(a, b) <= SAME)}
    return Sanity("classes").rows(example.name, values, label=example.label, explained=target)


def repeatability(
    model: nn.Module,
    example: Example,
    target: int,
    method: str = "gae",
    options: Options | None = None,
    *,
    seed: int = 0,
) -> list[Row]:
    """The same call twice."""
    a, b = (_map(model, example, target, method, options, seed) for _ in range(2))
    return Sanity("repeat").rows(example.name, _apart(a, b), label=example.label, explained=target)


def batch_invariance(
    model: nn.Module, examples: Sequence[Example], targets: Sequence[int], method: str = "gae",
    options: Options | None = None, *, seed: int = 0,
) -> list[Row]:  # fmt: skip
    """Every example alone and in one batch (of examples whose tensors have one shape)."""
    stacked = {k: torch.cat([e.reading.inputs[k] for e in examples]) for k in examples[0].reading.inputs}
    together = _explained(
        model, stacked, examples[0], torch.tensor(list(targets)), method, options, seed, len(examples)
    )
    name = _stream(together, examples[0])
    rows = []
    for i, (example, target) in enumerate(zip(examples, targets, strict=True)):
        alone = _map(model, example, target, method, options, seed)
        values = _apart(alone, checked(together.scores[name][i], "map"))
        rows += Sanity("batch").rows(example.name, values, label=example.label, explained=target)
    return rows


def padding_invariance(
    model: nn.Module, example: Example, target: int, method: str = "gae", options: Options | None = None, *,
    pad: int = 0, seed: int = 0,
) -> list[Row]:  # fmt: skip
    """A text with five padded tokens on the right: real tokens keep their scores, padded ones have exactly none."""
    inputs = example.reading.inputs
    ids = next((v for v in inputs.values() if not v.is_floating_point()), None)
    if "attention_mask" not in inputs or ids is None:
        raise Misuse("padding can be added to texts only: inputs with token ids and an attention_mask")
    stream = next(k for k, v in inputs.items() if v is ids)
    filler = {stream: pad}
    longer = {k: F.pad(v, (0, MORE), value=filler.get(k, 0)) if v.shape == ids.shape else v for k, v in inputs.items()}
    a = _map(model, example, target, method, options, seed)
    padded = _explained(model, longer, example, target, method, options, seed, 1, MORE)
    b = checked(padded.scores[stream][0], "map")
    values = _apart(a, b[: len(a)]) | {"padded_scores": float(b[len(a) :].abs().max())}
    return Sanity("padding").rows(example.name, values, label=example.label, explained=target)


def _stream(explanation: Explanation, example: Example) -> str:
    return stream_of(explanation, inputs=example.reading.inputs)


def _apart(a: Scores, b: Scores) -> dict[str, float]:
    return {"difference": float((a - b).abs().max()), "relative": distance(a, b)}


def _map(model: nn.Module, example: Example, target: int, method: str, options: Options | None, seed: int) -> Scores:
    found = _explained(model, example.reading.inputs, example, target, method, options, seed, 1)
    return checked(found.scores[_stream(found, example)][0], "map")


def _explained(
    model: nn.Module, inputs: Mapping[str, Tensor], example: Example, target: Any, method: str, options: Options | None,
    seed: int, batch: int, more: int = 0,
) -> Explanation:  # fmt: skip
    """`explain` with what the reader knew of the special tokens."""
    known = example.reading
    special = {k: F.pad(v, (0, more), value=True).expand(batch, -1) for k, v in known.special.items()}
    reading = Reading(dict(inputs), {}, special if batch == 1 else {}, known.labels, known.mean, known.std)
    found = explain_reading(model, reading, target, method, seed=seed, **(options or {}))
    assert isinstance(found, Explanation)
    return found


def _size(a: Scores, b: Scores) -> float:
    return max(float(a.abs().max()), float(b.abs().max())) or 1.0


def distance(a: Scores, b: Scores) -> float:
    """max |a − b| over the larger map's largest size: 0 for the same map, also for two maps of zeros."""
    return float((a - b).abs().max()) / _size(a, b)


def similarity(a: Scores, b: Scores) -> float:
    """Spearman's ρ. A flat map has no order: 1 with itself, 0 with any other."""
    found = spearman(a.numpy(), b.numpy())
    return float(torch.equal(a, b)) if math.isnan(found) else found


__all__ = [
    "Sanity",
    "batch_invariance",
    "cascade",
    "class_sensitivity",
    "padding_invariance",
    "parameter_groups",
    "randomise",
    "redrawn",
    "repeatability",
    "restored",
    "sanity",
    "similarity",
    "two_steps",
]
