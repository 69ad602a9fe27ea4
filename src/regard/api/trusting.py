"""Calibrated trust: what a map's own evidence says of whether its top token is the right one.

The evidence is what anybody has who knows no right answer: the causal test, the receipt, agreement with other methods,
stability under noise, the proof of provenance. `trust.json` holds the logistic regression that weighs it; how that was fitted
and judged, leave-one-model-out, and where it fails, is in docs/trust.md (`benchmarks/trust.py`).
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard.errors import Misuse, RegardError
from regard.explanation.causal_test import CausalTest, HowTested, Outcome
from regard.explanation.explanation import Explanation
from regard.explanation.rank_correlation import rank_correlation
from regard.explanation.trust import Trust
from regard.recording.inputs import Inputs
from regard.recording.proof.verify import verify
from regard.target import Target, made_again

PANEL = ("gae", "input_x_gradient", "attnlrp")
"""Whom a map is compared with, itself left out."""
RANDOM = 19
"""Random choices of a causal test: the fewest there may be."""
NOISE, DRAWS = 0.1, 2
"""Noise of so many standard deviations of what it is added to (pixels, region features, embeddings), so many times."""
TINY = 1e-6
FEATURES = {
    "p": "log10 p of the causal test",
    "drop_z": "how far the target falls without the top units, in standard deviations of random choices",
    "drop_share": "the same as a share of the target",
    "fall": "how far the probability falls without them",
    "keep_p": "log10 p of what is kept with the top units alone",
    "keep_z": "what is kept, in standard deviations of random choices",
    "relative_error": "log10 of the receipt's relative error",
    "entropy": "entropy of the map, 0 to 1",
    "top_share": "the top token's share of the map",
    "margin": "how far the second token is behind the top one",
    "agree_top": "how many of gae, input_x_gradient and attnlrp have the same top token",
    "agree_rank": "mean rank correlation with these",
    "stable_top": "how often the top token stays under noise",
    "stable_rank": "mean rank correlation with the map under noise",
    "leak": "what `regard.verify` finds mixed in outside attention",
    "probability": "the model's probability of its answer",
    "tokens": "log2 of the number of tokens",
}
"""The evidence, in order, and what each number is."""
FILE = Path(__file__).with_name("trust.json")
FORMAT = "regard-trust-1"
Explained = Callable[..., Any]
"""(model, inputs, target, methods, seed=...) -> explanations: `regard.explain`."""

# -- evidence ----------------------------------------------------------------------------------------------------------


def of_map(scores: Tensor, test: CausalTest | None, relative_error: float) -> dict[str, float]:
    """What a map (its competing tokens' scores), its test and its receipt say."""
    size = scores.abs()
    share = size / size.sum() if bool(size.any()) else torch.full_like(size, 1 / len(size))
    first, second = scores.topk(2).values.tolist()
    return {
        **of_test(test),
        "relative_error": limited(math.log10(max(relative_error, 1e-4)), 2.0) if relative_error >= 0 else math.nan,
        "entropy": float(-(share * share.clamp(min=1e-12).log()).sum()) / math.log(len(scores)),
        "top_share": float(share[scores.argmax()]),
        "margin": limited((first - second) / max(abs(first), TINY), 1.0),
        "tokens": math.log2(len(scores)),
    }


def of_test(test: CausalTest | None) -> dict[str, float]:
    """Of a causal test: how surely, and how far, beside chance."""
    top, kept = (None, None) if test is None else (test.highest, test.kept)
    if test is None or top is None or kept is None:
        return dict.fromkeys(("p", "drop_z", "drop_share", "fall", "keep_p", "keep_z", "probability"), math.nan)
    a, b = (math.nan if p is None else p for p in (test.probability, top.probability))
    return {
        "p": math.log10(top.p_value),
        "drop_z": beyond(top),
        "drop_share": limited(top.change / max(abs(test.value), TINY), 3.0),
        "fall": a - b,
        "keep_p": math.log10(kept.p_value),
        "keep_z": beyond(kept),
        "probability": a,
    }


def beyond(outcome: Outcome) -> float:
    """By how many standard deviations of the random choices the map's own lies above their mean."""
    drawn = np.array(outcome.random)
    return limited((outcome.change - float(drawn.mean())) / max(float(drawn.std()), TINY), 10.0)


def limited(value: float, most: float) -> float:
    """Within −most and most."""
    return max(-most, min(most, value))


def alike(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Whether two maps have one top token, and Spearman's rank correlation; a flat map is like no other."""
    if bool(a.max() == a.min()) or bool(b.max() == b.min()):
        return 0.0, 0.0
    return float(a.argmax() == b.argmax()), float(rank_correlation(a, b))


def compared(own: Tensor, others: Sequence[Tensor], name: str) -> dict[str, float]:
    """The means over other maps, as two features of a name."""
    pairs = [alike(own, other) for other in others]
    mean = [sum(p[i] for p in pairs) / len(pairs) if pairs else math.nan for i in (0, 1)]
    return {f"{name}_top": mean[0], f"{name}_rank": mean[1]}


def with_noise(values: Tensor, seed: int) -> Tensor:
    """Values with Gaussian noise of NOISE of their standard deviation."""
    drawn = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed)).to(values)
    return values + NOISE * values.detach().std() * drawn


@contextmanager
def noisy(module: nn.Module | None, seed: int) -> Iterator[None]:
    """Noise on a module's output (embeddings of tokens), in this thread alone; None: nowhere."""
    if module is None:
        yield
        return
    own = threading.get_ident()

    def add(_module: Any, _args: Any, out: Tensor) -> Tensor | None:
        return with_noise(out, seed) if threading.get_ident() == own else None

    hook = module.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


# -- the fit -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """A logistic regression on the evidence: what is missing is taken at its median, and has a weight of its own."""

    intercept: float
    weights: tuple[float, ...]
    missing: tuple[float, ...]
    medians: tuple[float, ...]

    def probability(self, evidence: Mapping[str, float]) -> float:
        """Of a right top token."""
        total = self.intercept
        for name, w, gone, usual in zip(FEATURES, self.weights, self.missing, self.medians, strict=True):
            value = evidence[name]
            total += gone + w * usual if math.isnan(value) else w * value
        return 1 / (1 + math.exp(-limited(total, 500.0)))


@dataclass(frozen=True)
class Calibration:
    """The fit to all models, those that leave one out, what they have seen, how right they were, and where they come from."""

    every: Fitted
    without: Mapping[str, Fitted]
    seen: Mapping[str, tuple[float, float]]
    methods: tuple[str, ...]
    curve: tuple[tuple[float, float, float], ...]
    provenance: Mapping[str, Any]

    def observed(self, probability: float) -> tuple[float, float, float]:
        """Of maps of models that were left out: from where to where about so much was said, and what share was right."""
        return next(part for part in self.curve if probability <= part[1])

    def notes(self, evidence: Mapping[str, float], exp: Explanation) -> Iterator[str]:
        """Where a case lies outside of what the fit has seen."""
        if exp.method not in self.methods:
            yield f"it has seen no map of {exp.method}"
        elif exp.options:
            yield f"it has seen {exp.method} without options alone"
        if math.isnan(evidence["p"]):
            yield "there is no causal test here"
        for name, (low, high) in self.seen.items():
            if evidence[name] < low - 1e-9 or evidence[name] > high + 1e-9:
                value, a, b = (2**v if name == "tokens" else v for v in (evidence[name], low, high))
                what = "the number of tokens" if name == "tokens" else FEATURES[name]
                yield f"{what} is {value:.3g}, and it has seen {a:.3g} to {b:.3g}"


@cache
def calibration() -> Calibration:
    """The one that is bundled."""
    made = json.loads(FILE.read_text("utf-8"))
    assert made["format"] == FORMAT
    assert made["features"] == [*FEATURES]
    fits = {
        name: Fitted(f["intercept"], tuple(f["weights"]), tuple(f["missing"]), tuple(f["medians"]))
        for name, f in made["fits"].items()
    }
    every = fits.pop("")
    seen = {name: (low, high) for name, (low, high) in made["seen"].items()}
    curve = tuple((low, high, right) for low, high, _maps, right in made["curve"])
    return Calibration(every, fits, seen, tuple(made["methods"]), curve, made["provenance"])


# -- when it is asked for ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judging:
    """What judges maps of one call of `explain`, which `explained` is: the model, and how it was explained."""

    model: nn.Module
    explained: Explained
    how: Mapping[str, Any]

    def __call__(self, exp: Explanation, samples: Sequence[int]) -> list[Trust]:
        """One for each sample. Raises Misuse where nothing can be taken away, or the target cannot be asked for again."""
        late = exp.late_test
        if late.ingredients is None:
            raise Misuse(f"trust cannot be judged here: {late.refused or late.lacking}")
        asked = HowTested.checked(random=RANDOM, sufficiency=True, unit="token")
        units = late.units(exp, asked)
        if any(len(u.tokens) < 2 for u in units):
            raise Misuse("trust cannot be judged of a map with less than two tokens that can be taken away")
        target = made_again(*late.ingredients.target)
        stream = units[0].stream
        tests = self._tests(exp, asked)
        panel = self._panel(exp, target, stream)
        moved = [self._moved(exp, target, stream, seed) for seed in range(1, DRAWS + 1)]
        leak = max((m.share for m in verify(self.model, self._given(exp)).mixed), default=0.0)
        errors = exp.receipt.relative_error
        found = []
        for row, (sample, unit) in enumerate(zip(samples, units, strict=True)):
            at = [t for tokens in unit.tokens for t in tokens]
            own = exp.scores[stream][row, at].detach().float().cpu()
            evidence = {
                **of_map(own, tests[row], math.nan if errors is None else float(errors[row])),
                **compared(own, [m[sample, at] for m in panel], "agree"),
                **compared(own, [m[sample, at] for m in moved], "stable"),
                "leak": leak,
            }
            found.append(trust_of(evidence, exp, stream, at[int(own.argmax())], row))
        return found

    def _tests(self, exp: Explanation, asked: HowTested) -> Sequence[CausalTest | None]:
        try:
            return exp.late_test.tests(exp, asked)
        except RegardError:
            return [None] * len(exp.receipt.target_value)

    def _given(self, exp: Explanation) -> Any:
        """The inputs, as they were given."""
        ingredients = exp.late_test.ingredients
        assert ingredients is not None
        return ingredients.inputs

    def _panel(self, exp: Explanation, target: Target, stream: str) -> list[Tensor]:
        """The maps of other methods; those that there are for this model."""
        found = []
        for method in PANEL:
            if method != exp.method:
                try:
                    found.append(self._map(exp, self._given(exp), target, stream, method, {}))
                except RegardError:  # a method that does not fit the model has no say
                    continue
        return found

    def _moved(self, exp: Explanation, target: Target, stream: str, seed: int) -> Tensor:
        """The same map under noise, of another draw."""
        given = Inputs.of(self.model, self._given(exp), self.how.get("batch_axis", 0)).tensors
        options = {
            **exp.options,
            **{k: self.how[k] for k in ("baseline", "site", "readout") if self.how.get(k) is not None},
        }
        inputs, embeddings = self._given(exp), None
        if stream in given and given[stream].is_floating_point():
            inputs = replaced(inputs, given, stream, with_noise(given[stream], seed))
        else:
            embeddings = _embeddings(self.model)
        with noisy(embeddings, seed):
            return self._map(exp, inputs, target, stream, exp.method, options, seed)

    def _map(
        self,
        exp: Explanation,
        inputs: Any,
        target: Target,
        stream: str,
        method: str,
        options: Any,
        seed: int | None = None,
    ) -> Tensor:
        own = {k: v for k, v in self.how.items() if k in ("streams", "memory_budget", "batch_axis", "training")}
        drawn = exp.receipt.seed if seed is None else seed
        made = self.explained(self.model, inputs, target, method, seed=drawn, **own, **options)
        scores: Tensor = made.scores[stream]
        return scores.detach().float().cpu()


def replaced(inputs: Any, named: Mapping[str, Tensor], stream: str, value: Tensor) -> Any:
    """Inputs as they were given (a tensor, a tuple or a dict) with another tensor of one stream."""
    if isinstance(inputs, Mapping):
        return {**inputs, stream: value}
    if isinstance(inputs, tuple):
        place = [*named].index(stream)
        if len(inputs) != len(named):
            raise Misuse(
                "trust cannot be judged here: give the inputs as a dict, so that noise is put on the right one"
            )
        return tuple(value if i == place else t for i, t in enumerate(inputs))
    return value


def _embeddings(model: nn.Module) -> nn.Module:
    """What makes vectors of ids. Raises Misuse where that is not known."""
    find: Any = getattr(model, "get_input_embeddings", None)
    found = find() if callable(find) else None
    if not isinstance(found, nn.Module):
        raise Misuse(
            "trust cannot be judged here: the model does not say where its embeddings are, for noise to be put on them"
        )
    return found


def trust_of(evidence: Mapping[str, float], exp: Explanation, stream: str, token: int, sample: int) -> Trust:
    """What the fit says of some evidence."""
    known = calibration()
    every = [f.probability(evidence) for f in (known.every, *known.without.values())]
    told = {k: None if math.isnan(v) else v for k, v in evidence.items()}
    notes, observed = tuple(known.notes(evidence, exp)), known.observed(every[0])
    return Trust(every[0], min(every), max(every), observed, stream, token, told, notes, sample)


__all__ = ["FEATURES", "PANEL", "Calibration", "Fitted", "Judging", "calibration", "trust_of"]
