"""Protocol 1, attribution error: how much of what does a map account for (arXiv 2605.22417)?

It needs neither ground truth nor a perfect model: T = f(F) − f(F0) is measured by running the model, ε = |Σa − T|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regard.api.explain import explain
from regard.attribution.table import method as method_row
from regard.evaluation.statistics import Interval, median_with_interval
from regard.site import Site


@dataclass(frozen=True)
class Row:
    """One sample's map: method, site and baseline as on its receipt, Σa, T, ε, ε/|T| (NaN: undefined) and the cost."""

    protocol: str
    method: str
    site: str
    baseline: str
    sample: int
    attribution_sum: float
    attribution_target: float
    attribution_error: float
    relative_error: float
    decomposes: bool
    passes: int


@dataclass(frozen=True)
class Summary:
    """The median of ε/|T| over samples, with a bootstrap interval; |T| in the median; how many samples were undefined."""

    method: str
    site: str
    baseline: str
    relative_error: Interval
    target_size: float
    samples: int
    undefined: int
    passes: float


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
    explained: what is called instead of `regard.explain` (a reader's `explain`, say).
    """
    rows: list[Row] = []
    for name, options in (m if isinstance(m, tuple) else (m, {}) for m in methods):
        for site, baseline in asked(name, sites, baselines):
            exp = explained(model, inputs, target, name, baseline=baseline, site=site, **options)
            rows += rows_of(exp, options, first)
    return rows


def asked(name: str, sites: Iterable[Site | None], baselines: Iterable[Any]) -> list[tuple[Site | None, Any]]:
    """The (site, baseline) pairs that a method can be asked for; its own where it takes none."""
    row = method_row(name)
    where = [s for s in sites if s is None or s.kind in row.sites] or [None]
    against = list(baselines) if row.explicit else [None]
    return [(s, b) for s in where for b in (against if s is None or s.kind != "attention" else [None])]


def rows_of(exp: Any, options: Mapping[str, Any], first: int = 0) -> list[Row]:
    """The rows of one explanation."""
    receipt = exp.receipt
    name = "/".join(["attribution-error", receipt.target, *(f"{k}={v}" for k, v in sorted(options.items()))])
    T, error, relative = (
        [math.nan] * len(receipt.attribution_sum) if t is None else [float(v) for v in t]
        for t in (receipt.attribution_target, receipt.attribution_error, receipt.relative_error)
    )
    method = exp.method + "".join(
        f", {k}={v}" for k, v in sorted(options.items()) if k in ("map", "of", "signed", "reduce")
    )
    return [
        Row(name, method, receipt.site, receipt.baseline, first + i, float(s), T[i], error[i], relative[i],
            receipt.decomposes, receipt.passes)
        for i, s in enumerate(receipt.attribution_sum)
    ]  # fmt: skip


def summaries(rows: Sequence[Row], seed: int = 0) -> list[Summary]:
    """One line a method × site × baseline, in the order of the rows."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for r in rows:
        groups.setdefault((r.method, r.site, r.baseline), []).append(r)
    out = []
    for (method, site, baseline), own in groups.items():
        defined = [r.relative_error for r in own if not math.isnan(r.relative_error)]
        sizes = torch.tensor([abs(r.attribution_target) for r in own])
        out.append(
            Summary(
                method, site, baseline, median_with_interval(defined, seed), float(sizes.nanmedian()),
                len(own), len(own) - len(defined), sum(r.passes for r in own) / len(own),
            )
        )  # fmt: skip
    return out


__all__ = ["Row", "Summary", "asked", "attribution_error", "rows_of", "summaries"]
