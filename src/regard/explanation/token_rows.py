"""Which tokens of one stream look at which of another: rows that are asked for after the explanation, and kept with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import Misuse
from regard.explanation.loading import Damaged

Compute = Callable[[str, list[int]], dict[str, Tensor]]


@dataclass
class TokenRows:
    """Rows that were asked for, by query stream, and how to find others.

    Attributes:
        compute: (query stream, tokens) -> key stream -> (batch, rows, keys); None after `load`.
        refused: why there are none, or "".
        tokens: query stream -> the tokens whose rows are known. known: query stream -> key stream -> these rows.
        errors: their standard errors likewise, where a method that draws has them.
    """

    compute: Compute | None = field(default=None, repr=False)
    refused: str = ""
    tokens: dict[str, list[int]] = field(default_factory=dict)
    known: dict[str, dict[str, Float[Tensor, "batch rows keys"]]] = field(default_factory=dict, repr=False)
    errors: dict[str, dict[str, Float[Tensor, "batch rows keys"]]] = field(default_factory=dict, repr=False)

    def rows(self, query: str, key: str, wanted: Sequence[int]) -> Float[Tensor, "batch rows keys"]:
        """Some rows, in the order asked for. What is not known yet is found by one more forward and gradient."""
        return self._rows(query, wanted)[key]

    def _rows(self, query: str, wanted: Sequence[int]) -> dict[str, Float[Tensor, "batch rows keys"]]:
        missing = [i for i in dict.fromkeys(wanted) if i not in self.tokens.get(query, ())]
        if missing:
            self._find(query, missing)
        at = [self.tokens[query].index(i) for i in wanted]
        return {key: known[:, at] for key, known in self.known[query].items()}

    def _find(self, query: str, missing: list[int]) -> None:
        if self.refused:
            raise Misuse(self.refused)
        if self.compute is None:
            raise Misuse(
                f"the rows of {query!r} were not asked for before this explanation was saved or pickled, without its model; "
                "call between(...) first, or explain again"
            )
        found, old = self.compute(query, missing), self.known.get(query, {})
        self.known[query] = {k: torch.cat([old[k], t], 1) if old else t for k, t in found.items()}
        self.tokens[query] = self.tokens.get(query, []) + missing

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenRows, (None, self.refused, self.tokens, self.known, self.errors)

    def __deepcopy__(self, memo: Any) -> TokenRows:
        return TokenRows(self.compute, self.refused, *copy.deepcopy((self.tokens, self.known, self.errors), memo))

    def __copy__(self) -> TokenRows:
        return TokenRows(self.compute, self.refused, dict(self.tokens), dict(self.known), dict(self.errors))

    def check(self, scores: Mapping[str, Tensor]) -> None:
        """Raise Damaged where what a file held are no rows between the tokens of these streams."""
        for query, tokens in self.tokens.items():
            if not all(isinstance(i, int) and 0 <= i < scores[query].shape[1] for i in tokens) or not self.known[query]:
                raise Damaged(f"the rows of {query!r} are not of its tokens")
            for keys in (self.known[query], self.errors.get(query, {})):
                for key, rows in keys.items():
                    samples = max(len(scores[query]), len(scores[key]))
                    _fit(f"{query!r} and {key!r}", rows, (samples, len(tokens), scores[key].shape[1]))

    def of_sample(self, i: int) -> TokenRows:
        """The rows of one sample alone."""

        def compute(query: str, tokens: list[int]) -> dict[str, Tensor]:
            return {key: rows[i : i + 1] for key, rows in self._rows(query, tokens).items()}

        known, errors = (
            {query: {key: t[i : i + 1] for key, t in keys.items()} for query, keys in every.items()}
            for every in (self.known, self.errors)
        )
        return TokenRows(compute, self.refused, {q: [*at] for q, at in self.tokens.items()}, known, errors)

    def packed(self, tensors: dict[str, Tensor]) -> dict[str, list[int]]:
        """For a file: the tokens known; the rows go among the `tensors`."""
        for name, every in (("between", self.known), ("between-errors", self.errors)):
            for query, keys in every.items():
                tensors |= {f"{name}/{query}/{key}": t.detach().cpu().contiguous() for key, t in keys.items()}
        return self.tokens

    @classmethod
    def unpacked(cls, tokens: dict[str, list[int]], streams: Sequence[str], tensors: dict[str, Tensor]) -> TokenRows:
        """The inverse of `packed`."""
        known, errors = (
            {q: {k: tensors[f"{name}/{q}/{k}"] for k in streams if f"{name}/{q}/{k}" in tensors} for q in tokens}
            for name in ("between", "between-errors")
        )
        return cls(tokens=tokens, known=known, errors={q: keys for q, keys in errors.items() if keys})


def _fit(name: str, rows: Tensor, shape: tuple[int, int, int]) -> None:
    if rows.shape != shape or not rows.is_floating_point() or not bool(rows.isfinite().all()):
        raise Damaged(f"the rows between {name} are {tuple(rows.shape)}, and should be {shape}")


def tokens_asked(rows: int | Sequence[int] | None, count: int, stream: str) -> list[int]:
    """Token numbers from 0 on; negative ones count from the end. Raises Misuse for one that is out of range."""
    if rows is None:
        return [*range(count)]
    wanted = [int(i) for i in ([rows] if isinstance(rows, int) else rows)]
    if not wanted:
        raise Misuse(f"no rows are asked for; name tokens of {stream!r}, or leave rows out for all of them")
    for i in wanted:
        if not -count <= i < count:
            raise Misuse(f"row {i} is out of range: {stream!r} has {count} tokens")
    return [i % count for i in wanted]
