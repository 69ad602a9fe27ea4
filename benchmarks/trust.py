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
import dataclasses
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import measure
import numpy as np
import torch
from known import SETS, Asked
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import regard
from regard.api.explain import explain_reading
from regard.api.trusting import DRAWS, FEATURES, FORMAT, PANEL, RANDOM, compared, noisy, of_map, with_noise
from regard.api.trusting import FILE as BUNDLED
from regard.errors import RegardError
from regard.evaluation.statistics import Interval
from regard.explanation.raw_inputs import Reading

PAGE = measure.ROOT / "docs" / "trust.md"
COUNTS = {"vlm-scenes": 12, "atoms": 60}
COUNT = 72
"""Questions of each set, but for the slow ones."""
METHODS = (
    "random", "raw_attention", "rollout", "gae", "gradient", "input_x_gradient", "revised_ig", "attnlrp", "bti_token",
    "cp_lrp",
)  # fmt: skip
ENOUGH = 0.8
LEAST = 5
"""Right maps, and wrong ones, that an AUROC asks for."""
REDRAWN = 200


def top_of(scores: Tensor, seed: str) -> int:
    """The place of the largest score; one of several, drawn by a name."""
    best = (scores == scores.max()).nonzero()[:, 0]
    return int(best[zlib.crc32(seed.encode()) % len(best)])


# -- rows ------------------------------------------------------------------------------------------------------------------


def rows_of(name: str, asked: Asked, methods: Sequence[str], leak: float) -> list[dict[str, Any]]:
    """A row for each map of some questions."""
    found = explained(asked, methods, asked.reading)
    noisy_maps = [explained(asked, methods, *noised(asked, draw), seed=draw) for draw in range(1, DRAWS + 1)]
    rows = []
    for method in methods:
        exp = found[method]
        tests = exp.test(random=RANDOM, sufficiency=True, unit="token", stream=asked.stream)
        tests = tests if isinstance(tests, list) else [tests]
        errors = exp.receipt.relative_error
        for i, question in enumerate(asked.names):
            at = asked.competing[i]
            own = maps_of(exp, asked)[i][at]
            panel = [maps_of(found[m], asked)[i][at] for m in PANEL if m in found and m != method]
            moved = [maps_of(other[method], asked)[i][at] for other in noisy_maps]
            error = math.nan if errors is None else float(errors[i])
            rows.append({
                "set": name, "example": question, "group": asked.groups[i], "method": method,
                "right": bool(asked.right[i][at][top_of(own, question)]), "chance": float(asked.chance[i]), "leak": leak,
                **of_map(own, tests[i], error), **compared(own, panel, "agree"), **compared(own, moved, "stable"),
            })  # fmt: skip
    return rows


def maps_of(exp: Any, asked: Asked) -> Tensor:
    """The scores of the judged stream."""
    scores: Tensor = exp.scores[asked.stream].detach().float().cpu()
    return scores


def explained(
    asked: Asked, methods: Sequence[str], reading: Reading, module: nn.Module | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """Method -> its explanation. module: embeddings of tokens to whose output noise is added, drawn from the seed."""
    with noisy(module, seed):
        made: Any = explain_reading(asked.model, reading, asked.target, [*methods], seed=seed)
    return dict(zip(methods, made, strict=True))


def noised(asked: Asked, seed: int) -> tuple[Reading, nn.Module | None]:
    """The inputs with noise on what is judged, or the module whose output is to get it: ids take none."""
    given = asked.reading.inputs[asked.stream]
    if not given.is_floating_point():
        return asked.reading, asked.model.get_input_embeddings()  # type: ignore[operator]
    inputs = {**asked.reading.inputs, asked.stream: with_noise(given, seed)}
    return Reading(inputs, special=asked.reading.special), None


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
    """Make the rows of some sets, one file for each few questions; those that are there already are kept, method by method."""
    for name in names:
        methods: list[str] = []
        leak, started = math.nan, time.monotonic()
        for number, asked in enumerate(SETS[name](count or COUNTS.get(name, COUNT))):
            file = home / f"{name}-{number:03}.parquet"
            there = read(file) if file.exists() else []
            known = {row["method"] for row in there}
            if known >= {*METHODS}:
                continue
            if not methods:
                methods, leak = fitting(asked), leak_of(asked)
            if not (missing := [m for m in methods if m not in known]):
                continue
            panel = [m for m in PANEL if m in known and m in methods]
            made = rows_of(name, asked, [*panel, *missing], leak)
            put(file, there + [row for row in made if row["method"] in missing])
            print(f"{file.name}: {len(asked.names)} questions, {time.monotonic() - started:.0f} s", flush=True)


def put(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One Parquet file, there whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    begun = file.with_suffix(".begun")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows]), begun)
    begun.rename(file)


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
    return rows


def kept(home: Path) -> list[dict[str, Any]]:
    """All rows that are there."""
    return [row for f in sorted(home.glob("*.parquet")) for row in read(f)]


# -- judges ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Maps:
    """All rows as arrays: X (map, feature), and of each map what it is of, and whether its top token is right."""

    X: NDArray[np.float64]
    right: NDArray[np.bool_]
    model: NDArray[np.str_]
    method: NDArray[np.str_]
    group: NDArray[np.str_]
    chance: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Maps:
        """From rows."""
        X = np.array([[math.nan if r[f] is None else r[f] for f in FEATURES] for r in rows], dtype=np.float64)
        model, method, group = (np.array([r[k] for r in rows]) for k in ("set", "method", "group"))
        own = np.char.add(np.char.add(model, ": "), group)
        return cls(X, np.array([r["right"] for r in rows]), model, method, own, np.array([r["chance"] for r in rows]))

    def __len__(self) -> int:
        return len(self.right)

    @property
    def names(self) -> list[str]:
        """The models, in the order of the sets."""
        return [name for name in SETS if name in set(self.model.tolist())]

    def at(self, which: NDArray[Any]) -> Maps:
        """Some maps: places, or a mask."""
        return Maps(*(getattr(self, f.name)[which] for f in dataclasses.fields(self)))

    @property
    def weights(self) -> NDArray[np.float64]:
        """The same for each model, whatever the number of its maps."""
        counts = {m: int((self.model == m).sum()) for m in self.names}
        return np.array([len(self) / len(counts) / counts[m] for m in self.model.tolist()])


Fit = Callable[[Maps], Callable[[Maps], NDArray[np.float64]]]
"""From maps to what gives other maps the probability that their top token is right."""


def by_features(make: Callable[[], Any], some: Sequence[str] = tuple(FEATURES)) -> Fit:
    """A model of scikit-learn on some features."""
    columns = [[*FEATURES].index(f) for f in some]

    def fit(maps: Maps) -> Callable[[Maps], NDArray[np.float64]]:
        made = make()
        last = made.steps[-1][0] if isinstance(made, Pipeline) else ""
        weights = {f"{last}__sample_weight" if last else "sample_weight": maps.weights}
        made.fit(maps.X[:, columns], maps.right, **weights)
        return lambda others: made.predict_proba(others.X[:, columns])[:, 1]

    return fit


def logistic() -> Any:
    """The judge of the rule."""
    return make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler(),
        LogisticRegression(C=1.0, max_iter=2000),
    )  # fmt: skip


def trees() -> Any:
    """A check that lines are not too simple."""
    return HistGradientBoostingClassifier(max_iter=150, learning_rate=0.05, min_samples_leaf=40, random_state=0)


def by_method(maps: Maps) -> Callable[[Maps], NDArray[np.float64]]:
    """The method's name alone: how often its maps were right."""
    every = float(np.average(maps.right, weights=maps.weights))
    rate = {
        m: float(np.average(maps.right[maps.method == m], weights=maps.weights[maps.method == m]))
        for m in set(maps.method.tolist())
    }
    return lambda others: np.array([rate.get(m, every) for m in others.method.tolist()])


def base_rate(maps: Maps) -> Callable[[Maps], NDArray[np.float64]]:
    """The same for all."""
    rate = float(np.average(maps.right, weights=maps.weights))
    return lambda others: np.full(len(others), rate)


fitted = by_features(logistic)
JUDGES: dict[str, Fit] = {
    "all features, logistic regression": fitted,
    "all features, gradient boosting": by_features(trees),
    "the causal test alone": by_features(logistic, ("p", "drop_z", "drop_share", "fall", "keep_p", "keep_z")),
    "p of the causal test alone": by_features(logistic, ("p",)),
    "entropy alone": by_features(logistic, ("entropy",)),
    "agreement of methods alone": by_features(logistic, ("agree_top", "agree_rank")),
    "stability under noise alone": by_features(logistic, ("stable_top", "stable_rank")),
    "relative error alone": by_features(logistic, ("relative_error",)),
    "the method's name alone": by_method,
    "nothing (the base rate)": base_rate,
}


def left_out(maps: Maps, of: NDArray[np.str_], fit: Fit) -> NDArray[np.float64]:
    """Each map judged by a fit to all that are of another model (or method, or fold)."""
    out = np.full(len(maps), math.nan)
    for one in dict.fromkeys(of.tolist()):
        out[of == one] = fit(maps.at(of != one))(maps.at(of == one))
    return out


def within(maps: Maps) -> NDArray[np.str_]:
    """Of each map its fold among five of its own model: examples that share something lie in one."""
    return np.array([str(zlib.crc32(g.encode()) % 5) for g in maps.group.tolist()])


def known_model(maps: Maps) -> NDArray[np.float64]:
    """Each map judged by a fit to other examples of its own model: what the features could tell if right maps were known."""
    out = np.full(len(maps), math.nan)
    for name in maps.names:
        own = maps.model == name
        out[own] = left_out(maps.at(own), within(maps.at(own)), fitted)
    return out


# -- how they did ----------------------------------------------------------------------------------------------------------


def auroc(right: NDArray[np.bool_], said: NDArray[np.float64], least: int = 1) -> float:
    """How often a right map is said to be righter than a wrong one; NaN where fewer than `least` are right, or wrong."""
    good = int(right.sum())
    if min(good, len(right) - good) < least:
        return math.nan
    above = float(rankdata(said)[right].sum()) - good * (good + 1) / 2
    return above / (good * (len(right) - good))


def mean_auroc(right: NDArray[np.bool_], said: NDArray[np.float64], cells: NDArray[np.int64]) -> float:
    """The mean over cells (models, or methods of models) in which there are maps enough of both kinds."""
    each = [auroc(right[at], said[at], LEAST) for at in (cells == c for c in np.unique(cells))]
    known = [v for v in each if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def everywhere(maps: Maps) -> NDArray[np.str_]:
    """One cell."""
    return np.full(len(maps), "all")


def of_model(maps: Maps) -> NDArray[np.str_]:
    """A cell for each model."""
    return maps.model


def of_method(maps: Maps) -> NDArray[np.str_]:
    """A cell for each method on each model."""
    return np.char.add(np.char.add(maps.model, "/"), maps.method)


def drawn_again(maps: Maps, numbers: Callable[[NDArray[np.int64]], float]) -> Interval:
    """A number of maps, with its interval: what shares an example, or a scene, is drawn together, each model by itself."""
    members: dict[str, dict[str, list[int]]] = {}
    for i, (model, group) in enumerate(zip(maps.model.tolist(), maps.group.tolist(), strict=True)):
        members.setdefault(model, {}).setdefault(group, []).append(i)
    draw, found = np.random.default_rng(0), []
    for _ in range(REDRAWN):
        at: list[int] = []
        for groups in members.values():
            own = [*groups.values()]
            at += [i for g in draw.integers(len(own), size=len(own)) for i in own[g]]
        found.append(numbers(np.array(at)))
    known = [v for v in found if not math.isnan(v)]
    low, high = np.quantile(known, (0.025, 0.975)).tolist() if known else (math.nan, math.nan)
    return Interval(numbers(np.arange(len(maps))), low, high)


def shown(found: Interval) -> str:
    """– where there are not maps enough of both kinds."""
    return "–" if math.isnan(found.value) else str(found)


def judged(maps: Maps, said: NDArray[np.float64], cells: Callable[[Maps], NDArray[np.str_]]) -> Interval:
    """AUROC over some cells."""
    number = np.unique(cells(maps), return_inverse=True)[1]
    return drawn_again(maps, lambda at: mean_auroc(maps.right[at], said[at], number[at]))


def brier(maps: Maps, said: NDArray[np.float64]) -> float:
    """The mean of (said − right)², every model with the same weight."""
    return float(np.average((said - maps.right) ** 2, weights=maps.weights))


# -- the page --------------------------------------------------------------------------------------------------------------


def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def report(maps: Maps) -> dict[str, str]:
    """The sections of the page."""
    said = {name: left_out(maps, maps.model, fit) for name, fit in JUDGES.items()}
    ours = said["all features, logistic regression"]
    real = maps.method != "random"
    main = judged(maps.at(real), ours[real], of_model)
    return {
        "trust-rule": verdict(maps, main),
        "trust-judges": judges(maps, said, real),
        "trust-models": models(maps, ours, real),
        "trust-methods": methods(maps),
        "trust-curve": curve(maps, ours),
        "trust-features": weights(maps),
    }


def verdict(maps: Maps, main: Interval) -> str:
    """Whether it ships."""
    ships = main.value >= ENOUGH
    counted = f"{len(maps)} maps of {len(set(maps.group.tolist()))} groups of examples, {len(maps.names)} models"
    return (
        f"AUROC within the model that was left out, mean over models, all methods but `random`: **{main}** ({counted}). "
        f"The rule asks for {ENOUGH:g}: `exp.trust` **{'ships' if ships else 'does not ship'}**."
    )


def judges(maps: Maps, said: Mapping[str, NDArray[np.float64]], real: NDArray[np.bool_]) -> str:
    """Judges x AUROC and Brier score."""
    every = said | {"all features, fitted to other examples of the same model": known_model(maps)}
    some = maps.at(real)
    rows = []
    for name, p in every.items():
        found = (judged(some, p[real], cells) for cells in (of_model, of_method, everywhere))
        rows.append([name, *map(shown, found), f"{brier(some, p[real]):.3f}"])
    head = ("what is known", "within a model", "within a method of a model", "over all maps", "Brier score")
    return lines(head, rows)


def models(maps: Maps, said: NDArray[np.float64], real: NDArray[np.bool_]) -> str:
    """Each model, as it was left out."""
    rows = []
    for name in maps.names:
        at = (maps.model == name) & real
        own, p = maps.at(at), said[at]
        rate = float(own.right.mean())
        rows.append([
            name, str(len(own)), f"{100 * rate:.0f} %", f"{100 * own.chance.mean():.0f} %", shown(judged(own, p, of_model)),
            shown(judged(own, p, of_method)), f"{brier(own, p):.3f}", f"{rate * (1 - rate):.3f}", f"{100 * p.mean():.0f} %",
        ])  # fmt: skip
    head = (
        "left out", "maps", "right", "right by chance", "AUROC", "within a method", "Brier score", "of the own base rate",
        "said to be right",
    )  # fmt: skip
    return lines(head, rows)


def methods(maps: Maps) -> str:
    """Each method, when it was left out of the fit on all models."""
    said = left_out(maps, maps.method, fitted)
    rows = []
    for name in dict.fromkeys(maps.method.tolist()):
        at = maps.method == name
        own, p = maps.at(at), said[at]
        rows.append([name, str(len(own)), f"{100 * own.right.mean():.0f} %", shown(judged(own, p, of_model)),
                     shown(judged(own, p, everywhere)), f"{brier(own, p):.3f}"])  # fmt: skip
    return lines(("left out", "maps", "right", "AUROC within a model", "AUROC over all models", "Brier score"), rows)


def curve(maps: Maps, said: NDArray[np.float64]) -> str:
    """What was said beside what was so, in tenths."""
    rows = []
    tenth = np.minimum((said * 10).astype(int), 9)
    for i in range(10):
        at = tenth == i
        if at.any():
            own = maps.at(at)
            share = drawn_again(own, lambda a, own=own: float(own.right[a].mean()))  # type: ignore[misc]
            rows.append([f"{10 * i} to {10 * i + 10} %", str(int(at.sum())), f"{100 * said[at].mean():.0f} %",
                         f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"])  # fmt: skip
    return lines(("said", "maps", "said, mean", "right"), rows)


def tenths(maps: Maps, said: NDArray[np.float64]) -> list[list[float]]:
    """Tenths of what was said: from, to, how many maps, and what share of them was right."""
    tenth = np.minimum((said * 10).astype(int), 9)
    return [[i / 10, (i + 1) / 10, int((tenth == i).sum()), round(float(maps.right[tenth == i].mean()), 4)]
            for i in range(10)]  # fmt: skip


def weights(maps: Maps) -> str:
    """Coefficients of the fit to all maps, and AUROC of each feature by itself within a model."""
    made = logistic()
    made.fit(maps.X, maps.right, logisticregression__sample_weight=maps.weights)
    real = maps.at(maps.method != "random")
    rows = []
    for i, feature in enumerate(FEATURES):
        column = real.X[:, i]
        known = ~np.isnan(column)
        alone = shown(judged(real.at(known), column[known], of_model))
        rows.append([f"`{feature}`", FEATURES[feature], f"{made[-1].coef_[0][i]:+.2f}", alone])
    return lines(("feature", "what it is", "weight", "AUROC of it alone, within a model"), rows)


def shipped(maps: Maps) -> dict[str, Any]:
    """What `exp.trust` is computed from: the fit to all maps, those that leave a model out, and where they come from."""
    real = maps.method != "random"
    said = left_out(maps, maps.model, fitted)[real]
    some = maps.at(real)
    fits = {"": folded(maps)} | {name: folded(maps.at(maps.model != name)) for name in maps.names}
    within_model = {n: round(mean_auroc(some.right[at], said[at], np.zeros(int(at.sum()))), 3)
                    for n in maps.names for at in [some.model == n]}  # fmt: skip
    return {
        "format": FORMAT,
        "features": [*FEATURES],
        "methods": [*METHODS],
        "seen": {f: [float(np.nanmin(maps.X[:, i])), float(np.nanmax(maps.X[:, i]))] for i, f in enumerate(FEATURES)},
        "fits": fits,
        "curve": tenths(maps, left_out(maps, maps.model, fitted)),
        "provenance": {
            "made_by": "python benchmarks/trust.py --kept FOLDER --judge --ship",
            "regard": regard.__version__,
            "maps": {name: int((maps.model == name).sum()) for name in maps.names},
            "auroc_of_the_model_left_out": within_model,
        },
    }


def folded(maps: Maps) -> dict[str, Any]:
    """A fit as weights of the features as they are."""
    made = logistic()
    made.fit(maps.X, maps.right, logisticregression__sample_weight=maps.weights)
    imputer, scaler, last = (step for _, step in made.steps)
    weights = last.coef_[0] / scaler.scale_
    missing = np.zeros(len(FEATURES))
    missing[imputer.indicator_.features_] = weights[len(FEATURES) :]
    intercept = float(last.intercept_[0] - (weights * scaler.mean_).sum())
    plain = {"weights": weights[: len(FEATURES)], "missing": missing, "medians": imputer.statistics_}
    return {"intercept": intercept} | {name: values.tolist() for name, values in plain.items()}


def main() -> None:
    """Make rows, judge them, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kept", type=Path, required=True, help="a folder for the rows")
    parser.add_argument("--only", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument("--count", type=int, help="questions of each set")
    parser.add_argument("--judge", action="store_true", help="make no rows")
    parser.add_argument("--write", action="store_true", help="into docs/trust.md")
    parser.add_argument("--ship", action="store_true", help="write the fit that exp.trust takes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.judge:
        collect(given.kept, given.only, given.count)
    maps = Maps.of(kept(given.kept))
    if given.ship:
        BUNDLED.write_text(json.dumps(shipped(maps), indent=1) + "\n", encoding="utf-8")
    for name, text in report(maps).items():
        print(f"\n## {name}\n\n{text}", flush=True)
        if given.write:
            measure.write(name, text, PAGE)


if __name__ == "__main__":
    main()
