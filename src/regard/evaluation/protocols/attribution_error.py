"""Protocol 1, attribution error: how much of what does a map account for (arXiv 2605.22417)?

It needs neither ground truth nor a perfect model: T = f(F) − f(F0) is measured by running the model, ε = |Σa − T|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from regard.api.explain import explain
from regard.attribution.table import method as method_row
from regard.errors import nearest
from regard.evaluation.examples import Example
from regard.evaluation.protocols.protocol import EXPLAINED, ExampleMaps, GivenMaps, MethodChoice, Protocol, Row
from regard.explanation.explanation import Explanation
from regard.site import Site


class Account(NamedTuple):
    """What one sample's map accounts for: Σa, T, ε, ε/|T| (NaN: undefined), |T|, and what that cost."""

    attribution_sum: float
    attribution_target: float
    attribution_error: float
    relative_error: float
    target_size: float
    passes: float


def account_of(explanation: Explanation, sample: int = 0) -> Account:
    """As the receipt tells."""
    r = explanation.receipt
    a, T, error, relative = (
        math.nan if t is None else float(t[sample])
        for t in (r.attribution_sum, r.attribution_target, r.attribution_error, r.relative_error)
    )
    return Account(a, T, error, relative, abs(T), float(r.passes))


@dataclass(frozen=True)
class AttributionError(Protocol):
    """How much of T a map leaves out.

    Attributes:
        explained: "predicted" or "true" class. target: what was explained in its place, as receipts say it.
    """

    kind: ClassVar[str] = "attribution-error"
    question: ClassVar[str] = "How much of the difference that the baseline makes does the map account for?"
    better: ClassVar[Mapping[str, int]] = {"relative_error": -1}
    headlines: ClassVar[tuple[str, ...]] = ("relative_error",)
    medians: ClassVar[frozenset[str]] = frozenset(("relative_error", "target_size"))

    meanings: ClassVar[Mapping[str, str]] = {
        "relative_error": "what the map's sum misses of the target's change from the baseline, as a share of it; median"
    }

    explained: str = "predicted"
    target: str = ""

    def __post_init__(self) -> None:
        if self.explained not in EXPLAINED:
            raise nearest(self.explained, EXPLAINED, "class to explain")

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.kind}/{self.target or self.explained}"

    def run(self, maps: ExampleMaps, example: Example) -> list[Row]:
        """What one example's map accounts for."""
        explanation, explained = maps.of(example, self.explained)
        values = account_of(explanation)._asdict()
        return self.rows(example.name, values, label=example.label, explained=explained)


def attribution_error(
    model: nn.Module,
    inputs: Any,
    target: Any = None,
    *,
    methods: Sequence[str | tuple[str, Mapping[str, Any]]],
    sites: Sequence[Site | None] = (None,),
    baselines: Sequence[Any] = (None,),
    first: int = 0,
    explained: Callable[..., Any] = explain,
) -> list[Row]:
    """ε of every method × site × baseline on one batch. A method that takes no site or baseline is run once, with its own.

    methods: names, or (name, options). sites, baselines: None is the method's own. first: number of the batch's first sample.
    explained: what is called instead of `regard.explain` (a reader's `explain`, say). Rows name the site and the baseline as
    receipts do.
    """
    rows: list[Row] = []
    for choice in map(MethodChoice.of, methods):
        for site, baseline in method_row(choice.name).pairs(sites, baselines):
            exp = explained(model, inputs, target, choice.name, baseline=baseline, site=site, **choice.options)
            rows += _rows_of(exp, choice, first)
    return rows


def _rows_of(exp: Explanation, choice: MethodChoice, first: int) -> list[Row]:
    """The rows of all samples of one explanation."""
    protocol = AttributionError(target=exp.receipt.target)
    columns = GivenMaps(model=nn.Identity(), explanation=exp, title=choice.title).columns() | {
        "options": choice.options
    }
    classes = exp.receipt.predicted, exp.receipt.explained
    rows: list[Row] = []
    for i in range(exp.batch):
        predicted, explained = (int(c[i]) if isinstance(c, Tensor) else None for c in classes)
        values = account_of(exp, i)._asdict()
        rows += protocol.rows(str(first + i), values, predicted=predicted, explained=explained, **columns)
    return rows


__all__ = ["Account", "AttributionError", "account_of", "attribution_error"]
