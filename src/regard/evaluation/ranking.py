"""Who is best under a protocol, and who is not surely worse: which way a metric points, and paired differences from the best.

The best is chosen by the very numbers that it is compared on, so "not surely worse" is generous to it: read it as a list of
candidates, not as a test. Nothing is corrected for the number of methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from regard.errors import Misuse
from regard.evaluation.rows import Row
from regard.evaluation.summaries import differences, grouped

SEGMENTATION = ("pixel_accuracy", "iou", "mean_iou", "mean_iou_accumulated", "ap", "f1", "iou_otsu", "iou_best",
                "iou_sweep_mean", "pointing")  # fmt: skip
LOGIC = ("changed", "fall", "stays", "redirected", "shift", "marked", "difference", "pointing_evidence")
HIGH = frozenset((*SEGMENTATION, "precision", "recall", "token_f1", "iou_f1", "auprc", "comprehensiveness", *LOGIC))
LOW = frozenset(("sufficiency", "relative_error", "loss"))
BEST, NEAR = "best", "near"


def direction(protocol: str, metric: str) -> int:
    """1 where a higher value is better, −1 where a lower one is, 0 where neither is. By the protocol's full name.

    A sanity check is passed or not, and no contest: maps that turn round when parameters are drawn anew are no better than
    maps that lose their likeness. Only a map that stays the same is worse.

    >>> direction("perturbation/pixel-black/positive/predicted", "auc_probability")
    -1
    """
    kind, *choices = protocol.split("/")
    if kind == "perturbation":
        falls = 1 if "negative" in choices else -1
        return falls if metric.startswith("auc_") else -falls if metric == "aopc" else 0
    if kind == "sanity":
        return -1 if metric == "unchanged" else 0
    return 1 if metric in HIGH else -1 if metric in LOW else 0


def standings(rows: Sequence[Row], metric: str, seed: int = 0) -> dict[str, str]:
    """Method -> "best", "near" (its paired difference from the best is not sure), or "", under one protocol.

    Empty where the metric has no better side, or no method has a number of it. Raises Misuse for rows of several protocols.
    """
    protocols = list(dict.fromkeys(r.protocol for r in rows))
    if len(protocols) > 1:
        raise Misuse(f"who is best is asked under one protocol, not under {len(protocols)}: {', '.join(protocols)}")
    side = direction(protocols[0], metric) if protocols else 0
    means = {method: _mean(own, metric) for method, own in grouped(rows, lambda r: r.method).items()}
    known = {method: mean for method, mean in means.items() if not math.isnan(mean)}
    if not side or not known:
        return {}
    best = max(known, key=lambda method: side * known[method])
    found = differences([r for r in rows if r.method in known], metric, against=best, seed=seed)
    near = {d.method for d in found if not d.sure and d.examples}
    return {m: BEST if known.get(m) == known[best] else NEAR if m in near else "" for m in means}


def _mean(rows: Sequence[Row], metric: str) -> float:
    values = [v for r in rows if not r.error and not math.isnan(v := r.values.get(metric, math.nan))]
    return sum(values) / len(values) if values else math.nan


__all__ = ["BEST", "NEAR", "direction", "standings"]
