"""Sensitivity to noise: does the map stay as it is when the input is changed by next to nothing?

Noise is added to a picture's pixels, or to any input of numbers; to texts, to the word embeddings. (Max-sensitivity, Yeh et al.
2019, is the same question of the worst case.) A map may change because the model's answer does, so that is told as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from regard.attribution.removal.runs import drawn_from
from regard.errors import Misuse, nearest
from regard.evaluation.examples import Example
from regard.evaluation.protocols.agreement import content_scores
from regard.evaluation.protocols.protocol import EXPLAINED, ChosenMaps, Protocol, Row
from regard.evaluation.protocols.sanity import distance, similarity
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Reading


@dataclass(frozen=True)
class Noise(Protocol):
    """How alike a map is to the map of the same input with noise.

    Attributes:
        explained: "predicted" or "true" class. level: the deviation of the noise, over that of the input itself.
    """

    kind: ClassVar[str] = "noise"
    question: ClassVar[str] = "Does the map stay as it is when next to nothing is added to the input?"
    better: ClassVar[Mapping[str, int]] = {"similarity": 1}
    headlines: ClassVar[tuple[str, ...]] = ("similarity",)
    meanings: ClassVar[Mapping[str, str]] = {"similarity": "rank correlation of the map with that of the noisy input"}

    explained: str = "predicted"
    level: float = 0.05

    def __post_init__(self) -> None:
        if self.explained not in EXPLAINED:
            raise nearest(self.explained, EXPLAINED, "class to explain")
        if not self.level > 0:
            raise Misuse(f"level is the noise over the input's own deviation, above 0, not {self.level!r}")

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.kind}/normal/level={self.level:g}/spearman/{self.explained}"

    def run(self, maps: ChosenMaps, example: Example) -> list[Row]:
        """How alike one example's maps are, and whether the model's answer is the same."""
        explanation, explained = maps.of(example, self.explained)
        assert explained is not None
        known = maps.kept.setdefault((self, example.name, explained), {})
        title = maps.choice.title
        if title not in known:
            with noisy(maps.model, example, self.level, maps.seed) as reading:
                known.update(maps.again(reading, torch.tensor([explained])))
        other = known.pop(title)
        a, b = (content_scores(one, example) for one in (explanation, other))
        values = {"similarity": similarity(a, b), "change": distance(a, b), "same_answer": _same(explanation, other)}
        return self.rows(example.name, values, label=example.label, explained=explained)


def _same(a: Explanation, b: Explanation) -> float:
    first, second = a.receipt.predicted, b.receipt.predicted
    return float("nan") if first is None or second is None else float(int(first[0]) == int(second[0]))


@contextlib.contextmanager
def noisy(model: nn.Module, example: Example, level: float, seed: int) -> Iterator[Reading]:
    """The reading with noise on its inputs of numbers; where there are none, the model with noise on the embeddings of its ids.

    Raises Misuse where no module embeds them.
    """
    inputs = example.reading.inputs
    generator = drawn_from(seed, f"noise on {example.name}")
    numbers = {k: v for k, v in inputs.items() if v.is_floating_point() and v.numel() > 1}
    if numbers:
        changed = {k: v + _noise(v, level, generator) for k, v in numbers.items()}
        yield dataclasses.replace(example.reading, inputs={**inputs, **changed})
        return
    with _noisy_embeddings(model, inputs, level, generator) as used:
        yield example.reading
    if not used:
        raise Misuse("noise cannot be added: the inputs are ids, and no nn.Embedding of the model reads them")


def _noise(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    deviation = float(x.detach().float().std(correction=0))
    return (level * deviation * torch.randn(x.shape, generator=generator)).to(x)


@contextlib.contextmanager
def _noisy_embeddings(
    model: nn.Module, inputs: Mapping[str, Tensor], level: float, generator: torch.Generator
) -> Iterator[list[str]]:
    """Noise on what embeds the ids, the same at each run; the names of the modules that were used."""
    ids = next((v for k, v in inputs.items() if k.endswith("input_ids")), next(iter(inputs.values())))
    used: dict[str, Tensor] = {}

    def added(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
            given = args[0] if args else kwargs.get("input")
            if not isinstance(given, Tensor) or given.shape != ids.shape or not bool((given == ids).all()):
                return None
            if name not in used:
                used[name] = _noise(output, level, generator)
            return output + used[name]

        return hook

    hooks = [
        module.register_forward_hook(added(name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    ]
    names: list[str] = []
    try:
        yield names
    finally:
        names += used
        for hook in hooks:
            hook.remove()


__all__ = ["Noise", "noisy"]
