"""How `regard explain` explains one input: what it asks the reader, what it calls the raw inputs, and what draws the answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.cli.classes import EACH
from regard.cli.files import render_explanations, render_generations, render_told
from regard.cli.inputs import Pair
from regard.cli.terminal import busy

if TYPE_CHECKING:
    from regard.explanation.explanation import Explanation
    from regard.explanation.raw_inputs import Raw

Rendered = Callable[[Sequence[Any], Path], list[str]]


@dataclass(frozen=True)
class Explaining:
    """What is asked of every input.

    Attributes:
        how: options of the reader. written: how many tokens are to be written on from the input, or the answer to it; None: its
            prediction is explained. against: another answer. test: whether maps are tested against chance. alone: it is
            the only input, so that a spinner says what is done. beside: how many of the maps that are found are those of
            runners-up, which the page alone shows, when their class is clicked.
    """

    reader: Any
    pair: Pair
    how: dict[str, Any]
    written: int | str | None = None
    against: str | None = None
    test: bool | None = None
    alone: bool = True
    beside: int = 0

    @classmethod
    def of(cls, reader: Any, pair: Pair, how: dict[str, Any], **more: Any) -> Explaining:
        """With a map of each class that a picture is compared with, where there are few and none is named."""
        alone = how.get("target") is None and how.get("against") is None
        if "target" in how and alone and 1 < pair.count <= EACH:
            how = how | {"target": [*range(pair.count)]}
        return cls(reader, pair, how, **more)

    def with_runners_up(self) -> Explaining:
        """With maps of the next likeliest classes, for the page alone, where one map of the predicted class is wanted."""
        from regard.explanation.prediction import TOP
        from regard.target import Target

        named = any(self.how.get(name) is not None for name in ("target", "against", "token", "guide"))
        several = not isinstance(self.how["method"], str)
        if named or several or self.written is not None or not getattr(self.reader, "classifies", False):
            return self
        beside = min(TOP, len(self.reader.labels)) - 1
        ranked = [None, *(Target.ranked(rank) for rank in range(1, beside + 1))]
        return dataclasses.replace(self, how=self.how | {"target": ranked}, beside=beside)

    def found(self, read: tuple[Any, str], target: str | None = None) -> list[Any]:
        """Explanations of one input, or (its name, what was written on from it); `target`: what its row says."""
        raw, stem, more = self.pair.joined(*read)
        how = self.how if target is None else self.how | {"target": target}
        with self._busy(f"explaining {stem}"):
            found: list[Any]
            if self.written is None:
                found = [named(e, stem, self.pair) for e in self._every(raw, how | more)]
            elif isinstance(self.written, int):
                found = [(stem, self.reader.explain_generation(raw, self.written, **how))]
            else:
                found = [(stem, self.reader.explain_writing(raw, self.written, self.against, **how))]
        self.tested(found)
        return found

    def _every(self, raw: Any, how: dict[str, Any]) -> list[Explanation]:
        made = self.reader.explain(raw, **how)
        return made if isinstance(made, list) else [made]

    def tested(self, found: Sequence[Any]) -> None:
        """Test what is to be shown, before it is drawn."""
        from regard.explanation.causal_test import shown_tested

        with self._busy("testing"):
            shown_tested(found if self.written is None else [exp for _, g in found for exp in _maps(g)], self.test)

    def _busy(self, what: str) -> AbstractContextManager[None]:
        return busy(what) if self.alone else nullcontext()

    def check_targets(self) -> None:
        """Refuse labels that a model of classes does not have, before any input is read. Raises UnknownName or TargetError."""
        from regard.models.token_targets import kind_of

        model, kind = getattr(self.reader, "model", None), self.reader.kind
        if model is None or kind not in ("image", "text") or not self.reader.labels or kind_of(model, kind):
            return
        asked = self.how.get("target")
        for label in [*(asked if isinstance(asked, list) else [asked]), self.how.get("against")]:
            if isinstance(label, str) and self.written is None:
                self.reader.label(label)

    def render(self, found: Sequence[Any]) -> Rendered:
        """What draws them."""
        if self.written is not None:
            return render_generations
        if found and found[0].told is not None:
            return render_told
        return partial(render_explanations, beside=self.beside)


def _maps(generation: Any) -> list[Explanation]:
    return [*([] if generation.whole is None else [generation.whole]), *generation]


def named(exp: Explanation, name: str, pair: Pair) -> Explanation:
    """The explanation with its raw inputs called as the command line called them.

    An answer, which the model or the user gave, keeps the name that the reader gave it.
    """
    from regard.models.default_targets import ANSWER
    from regard.models.embeddings import SECOND

    def called(stream: str, raw: Raw) -> str:
        if raw.name == ANSWER:
            return ANSWER
        if stream.startswith(SECOND) and pair.second:
            return pair.second
        return pair.name if pair.name and hasattr(raw, "tokens") else name

    raws: dict[str, Sequence[Raw]] = {
        s: [dataclasses.replace(r, name=called(s, r)) for r in raw] for s, raw in exp.inputs.items()
    }
    return dataclasses.replace(exp, inputs=raws)


__all__ = ["Explaining", "named"]
