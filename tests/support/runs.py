"""A small run of `regard.evaluate`, and its rows as a table in which nothing but what was measured may differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas

import regard
from regard.evaluation import AttributionError, Perturbation, Segmentation

METHODS = ["random", ("corrected_attention", {"sign": "signed"})]
PROTOCOLS = [Perturbation(steps=(0.5,), auc=(0, 0.5)), Segmentation(sweep=(0.4, 0.5)), AttributionError()]
SMALL: dict[str, Any] = {"methods": METHODS, "protocols": PROTOCOLS, "examples": 6, "batch": 2}


def small(out: Any, **changed: Any) -> Any:
    """Six scenes in three shards."""
    return regard.evaluate(**{"model": "zoo/vit-scenes", "out": out, **SMALL, **changed})


def table(rows: Path) -> pandas.DataFrame:
    """All columns but the seconds, in one order."""
    found = pandas.read_parquet(rows).drop(columns="seconds")
    return found.sort_values([*found.columns], ignore_index=True)


def left_behind(out: Path) -> list[str]:
    """Files that are neither the run's nor its lock."""
    whole = {"manifest.json", "README.md", ".lock", "rows"}
    every = [str(p.relative_to(out)) for p in out.rglob("*")]
    return [n for n in every if n not in whole and not (n.startswith("rows/shard-") and n.endswith(".parquet"))]
