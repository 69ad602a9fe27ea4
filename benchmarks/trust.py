"""Can a map's own evidence tell whether its top token is the right one? Calibrated trust, judged leave-one-model-out.

Maps of several methods, good and poor ones, of every question of `known.py`. Each map gives one row: numbers that a user has
too, who knows no right answer (the receipt, the causal test, agreement with other methods, stability under noise, the proof
of provenance), and whether the top token is right. A logistic regression is fitted to all models but one and judged on that
one, in turn.

**The rule, which was written down before any row was made.** The features are those of `FEATURES`, all of them. The judge is
`fitted`: standardised features, missing ones at the median with a column that says so, C = 1, every model with the same
weight. `exp.trust` ships if and only if the AUROC *within* the model that was left out, taken over the maps of all methods
but `random`, is 0.8 or more in the mean over models. (Over all maps of all models it would be raised by telling easy models
from hard ones; with `random` among them, by telling noise from maps.) All other numbers are there to understand that one.

    python benchmarks/trust.py --kept FOLDER            # make the rows (about 40 minutes); what is there already is kept
    python benchmarks/trust.py --kept FOLDER --write    # and judge them: tables into docs/trust.md
    python benchmarks/trust.py --kept FOLDER --judge    # judge what is there, make nothing
"""

from __future__ import annotations

import argparse
import math
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import measure
import numpy as np
import torch
from known import SETS, Asked
from scipy.stats import spearmanr
from torch import Tensor, nn

import regard
from regard.api.explain import explain_reading
from regard.errors import RegardError
from regard.explanation.causal_test import CausalTest, Outcome
from regard.explanation.raw_inputs import Reading

PAGE = measure.ROOT / "docs" / "trust.md"
COUNTS = {"vlm-scenes": 24, "atoms": 60}
COUNT = 72
"""Questions of each set, but for the slow ones."""
METHODS = (
    "random", "raw_attention", "rollout", "gae", "gradient", "input_x_gradient", "revised_ig", "attnlrp", "bti_token",
)  # fmt: skip
PANEL = ("gae", "input_x_gradient", "attnlrp")
"""Whom a map is compared with, itself left out."""
RANDOM = 19
"""Random choices of a causal test: the fewest there may be."""
NOISE, DRAWS = 0.1, 2
"""Noise of so many standard deviations of what it is added to (pixels, region features, embeddings), so many times."""
FEATURES = (
    "p", "drop_z", "drop_share", "fall", "keep_p", "keep_z", "relative_error", "entropy", "top_share", "margin",
    "agree_top", "agree_rank", "stable_top", "stable_rank", "leak", "probability", "tokens",
)  # fmt: skip
TINY = 1e-6

# -- one map ---------------------------------------------------------------------------------------------------------------


def features(scores: Tensor, test: CausalTest, relative_error: float) -> dict[str, float]:
    """What a map (its competing tokens' scores), its test and its receipt say."""
    size = scores.abs()
    share = size / size.sum() if bool(size.any()) else torch.full_like(size, 1 / len(size))
    first, second = scores.topk(2).values.tolist()
    return {
        **tested(test),
        "relative_error": limited(math.log10(max(relative_error, 1e-4)), 2.0) if relative_error >= 0 else math.nan,
        "entropy": float(-(share * share.clamp(min=1e-12).log()).sum()) / math.log(len(scores)),
        "top_share": float(share[scores.argmax()]),
        "margin": limited((first - second) / max(abs(first), TINY), 1.0),
        "tokens": math.log2(len(scores)),
    }


def tested(test: CausalTest) -> dict[str, float]:
    """Of a causal test: how surely, and how far, beside chance."""
    top, kept = test.highest, test.kept
    if top is None or kept is None:
        return dict.fromkeys(("p", "drop_z", "drop_share", "fall", "keep_p", "keep_z", "probability"), math.nan)
    known = test.probability is not None and top.probability is not None
    return {
        "p": math.log10(top.p_value),
        "drop_z": beyond(top),
        "drop_share": limited(top.change / max(abs(test.value), TINY), 3.0),
        "fall": test.probability - top.probability if known else math.nan,  # type: ignore[operator]
        "keep_p": math.log10(kept.p_value),
        "keep_z": beyond(kept),
        "probability": test.probability if test.probability is not None else math.nan,
    }


def beyond(outcome: Outcome) -> float:
    """By how many standard deviations of the random choices the map's own lies above their mean."""
    drawn = np.array(outcome.random)
    return limited((outcome.change - drawn.mean()) / max(float(drawn.std()), TINY), 10.0)


def limited(value: float, most: float) -> float:
    """Within −most and most."""
    return max(-most, min(most, float(value)))


def alike(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Whether two maps have one top token, and Spearman's rank correlation; a flat map is like no other."""
    if bool(a.max() == a.min()) or bool(b.max() == b.min()):
        return 0.0, 0.0
    return float(a.argmax() == b.argmax()), float(spearmanr(a, b).statistic)


def top_of(scores: Tensor, seed: str) -> int:
    """The place of the largest score; one of several, drawn by a name."""
    best = (scores == scores.max()).nonzero()[:, 0]
    return int(best[zlib.crc32(seed.encode()) % len(best)])


def mean_of(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Each place's mean."""
    top, rank = (sum(p[i] for p in pairs) / len(pairs) if pairs else math.nan for i in (0, 1))
    return top, rank


# -- rows ------------------------------------------------------------------------------------------------------------------


def rows_of(name: str, asked: Asked, methods: Sequence[str], leak: float) -> list[dict[str, Any]]:
    """A row for each map of some questions."""
    found = explained(asked, methods, asked.reading)
    noisy = [explained(asked, methods, *noised(asked, draw), seed=draw) for draw in range(1, DRAWS + 1)]
    rows = []
    for method in methods:
        exp = found[method]
        tests = exp.test(random=RANDOM, sufficiency=True, unit="token", stream=asked.stream)
        tests = tests if isinstance(tests, list) else [tests]
        errors = exp.receipt.relative_error
        for i, question in enumerate(asked.names):
            at = asked.competing[i]
            own = maps_of(exp, asked)[i][at]
            panel = [alike(own, maps_of(found[m], asked)[i][at]) for m in PANEL if m in found and m != method]
            moved = [alike(own, maps_of(other[method], asked)[i][at]) for other in noisy]
            agree, stable = mean_of(panel), mean_of(moved)
            error = math.nan if errors is None else float(errors[i])
            rows.append({
                "set": name, "example": question, "group": asked.groups[i], "method": method,
                "right": bool(asked.right[i][at][top_of(own, question)]), "chance": float(asked.chance[i]), "leak": leak,
                **features(own, tests[i], error),
                "agree_top": agree[0], "agree_rank": agree[1], "stable_top": stable[0], "stable_rank": stable[1],
            })  # fmt: skip
    return rows


def maps_of(exp: Any, asked: Asked) -> Tensor:
    """The scores of the judged stream."""
    scores: Tensor = exp.scores[asked.stream].detach().float().cpu()
    return scores


def explained(
    asked: Asked, methods: Sequence[str], reading: Reading, noisy: nn.Module | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """Method -> its explanation. noisy: a module (embeddings of tokens) to whose output noise is added, drawn from the seed."""

    def add(_module: Any, _args: Any, out: Tensor) -> Tensor:
        return with_noise(out, seed)

    hook = None if noisy is None else noisy.register_forward_hook(add)
    try:
        made: Any = explain_reading(asked.model, reading, asked.target, [*methods], seed=seed)
        return dict(zip(methods, made, strict=True))
    finally:
        if hook is not None:
            hook.remove()


def noised(asked: Asked, seed: int) -> tuple[Reading, nn.Module | None]:
    """The inputs with noise on what is judged, or the module whose output is to get it: ids take none."""
    given = asked.reading.inputs[asked.stream]
    if not given.is_floating_point():
        return asked.reading, asked.model.get_input_embeddings()  # type: ignore[operator]
    inputs = {**asked.reading.inputs, asked.stream: with_noise(given, seed)}
    return Reading(inputs, special=asked.reading.special), None


def with_noise(values: Tensor, seed: int) -> Tensor:
    """Values with Gaussian noise of NOISE of their standard deviation."""
    drawn = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))
    return values + NOISE * values.detach().std() * drawn


def fitting(asked: Asked) -> list[str]:
    """The methods that there are for a model."""
    out = []
    for method in METHODS:
        try:
            explained(asked, [method], asked.reading)
            out.append(method)
        except RegardError as e:
            print(f"  {method} is left out: {e}", flush=True)
    return out


def leak_of(asked: Asked) -> float:
    """The largest share that `regard.verify` finds mixed in outside attention."""
    found = regard.verify(asked.model, asked.reading.inputs)
    return max((m.share for m in found.mixed), default=0.0)


# -- kept ------------------------------------------------------------------------------------------------------------------


def collect(home: Path, names: Sequence[str], count: int | None) -> None:
    """Make the rows of some sets, one file for each few questions; those that are there already are kept."""
    for name in names:
        methods: list[str] = []
        leak, started = math.nan, time.monotonic()
        for number, asked in enumerate(SETS[name](count or COUNTS.get(name, COUNT))):
            file = home / f"{name}-{number:03}.parquet"
            if file.exists():
                continue
            if not methods:
                methods, leak = fitting(asked), leak_of(asked)
            put(file, rows_of(name, asked, methods, leak))
            print(f"{file.name}: {len(asked.names)} questions, {time.monotonic() - started:.0f} s", flush=True)


def put(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One Parquet file, there whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    begun = file.with_suffix(".begun")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows]), begun)
    begun.rename(file)


def kept(home: Path) -> list[dict[str, Any]]:
    """All rows that are there."""
    import pyarrow.parquet

    return [row for f in sorted(home.glob("*.parquet")) for row in pyarrow.parquet.read_table(f).to_pylist()]


def main() -> None:
    """Make rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kept", type=Path, required=True, help="a folder for the rows")
    parser.add_argument("--only", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument("--count", type=int, help="questions of each set")
    given = parser.parse_args()
    torch.set_num_threads(1)
    collect(given.kept, given.only, given.count)


if __name__ == "__main__":
    main()
