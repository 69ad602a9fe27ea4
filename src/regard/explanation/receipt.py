"""The receipt of an explanation: what was explained, against what, where, and how much of it the map accounts for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from regard.explanation.causal_test import CausalTest
from regard.explanation.files import as_json
from regard.explanation.loading import Damaged, check, finite, of_file
from regard.explanation.same import same
from regard.explanation.tables import as_html, beside, one_line

SAMPLES = 8
"""Of as many samples numbers are printed."""
SAME = 1e-4
"""The watched run gave the model's own output where they differ by at most this times max(1, |y|)."""


@dataclass
class Measured:
    """What costs extra passes: run when first read (`measure="lazy"`) or at once (`"full"`)."""

    output_difference: float | None = None
    baseline_value: Tensor | None = None
    attribution_target: Tensor | None = None
    passes: int = 0


@dataclass(frozen=True)
class ReadTokens:
    """Tokens of one stream that a target reads: of each sample how many, and the first of them."""

    stream: str
    counts: list[int]
    first: list[int]

    def of_sample(self, i: int) -> ReadTokens:
        """Those of one sample."""
        return ReadTokens(self.stream, self.counts[i : i + 1], self.first[i : i + 1])


@dataclass(frozen=True)
class Surrogate:
    """A linear model of the target that a method (`lime`, `shap_kernel`) fitted to runs without some of the units.

    Attributes:
        r2: what share of the target's weighted variance it explains, (batch,); NaN where the target does not vary.
        intercept: its value without any unit, (batch,). units, runs: how many there were, (batch,).
        exact: whether every subset of the units was run, so that other draws would change nothing, (batch,).
        standard_errors: how far the scores would move with other draws: stream -> (batch, tokens).
    """

    r2: Tensor
    intercept: Tensor
    units: Tensor
    runs: Tensor
    exact: Tensor
    standard_errors: dict[str, Tensor] = field(repr=False)

    @classmethod
    def of(cls, fits: Sequence[Any], standard_errors: dict[str, Tensor]) -> Surrogate:
        """Of fitted models, one a sample."""
        r2, intercept = (torch.tensor([float(getattr(f, k)) for f in fits]) for k in ("r2", "intercept"))
        units, runs = (torch.tensor([int(getattr(f, k)) for f in fits]) for k in ("units", "runs"))
        return cls(r2, intercept, units, runs, torch.tensor([bool(f.exact) for f in fits]), standard_errors)

    def of_sample(self, i: int) -> Surrogate:
        """That of one sample."""
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        errors = {k: v[i : i + 1] for k, v in parts.pop("standard_errors").items()}
        return Surrogate(**{k: v[i : i + 1] for k, v in parts.items()}, standard_errors=errors)

    def as_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        found: dict[str, Any] = as_json({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
        return found

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Surrogate:
        """The inverse of `as_dict`."""
        errors = {k: torch.tensor(v, dtype=torch.float32) for k, v in values["standard_errors"].items()}
        made = {k: torch.tensor(v) for k, v in values.items() if isinstance(v, list)}
        return of_file(cls, values, **made, standard_errors=errors)


@dataclass(frozen=True)
class LearnedMask:
    """A mask over the keys of attention that a method (`attention_mask`) learned for a target. Tensors are (batch,).

    Attributes:
        keys: over how many tokens it was learned. kept: how many of them it keeps, those with a probability over 1/2.
        left: the target's value where attention looks at these alone (and at what has no mask). none: at none of them.
        penalty: what keeping all of them cost, in the unit |y − none|. steps: of the optimisation.
    """

    BY_SAMPLE: ClassVar[tuple[str, ...]] = ("keys", "kept", "left", "none")

    keys: Tensor
    kept: Tensor
    left: Tensor
    none: Tensor
    penalty: float
    steps: int

    @property
    def sparsity(self) -> Tensor:
        """What share of the keys is left out; NaN where there was none."""
        return 1 - self.kept / self.keys

    @classmethod
    def joined(cls, parts: Sequence[LearnedMask]) -> LearnedMask:
        """Masks of some samples, one after the other."""
        each: dict[str, Any] = {k: torch.cat([getattr(p, k) for p in parts]) for k in cls.BY_SAMPLE}
        return dataclasses.replace(parts[0], **each)

    def of_sample(self, i: int) -> LearnedMask:
        """That of one sample."""
        parts: dict[str, Any] = {k: getattr(self, k)[i : i + 1] for k in self.BY_SAMPLE}
        return dataclasses.replace(self, **parts)

    def as_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        found: dict[str, Any] = as_json({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
        return found

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LearnedMask:
        """The inverse of `as_dict`."""
        return of_file(cls, values, **{k: torch.tensor(v) for k, v in values.items() if isinstance(v, list)})


@dataclass(frozen=True)
class ExplainedModel:
    """The model that a map is of, where it is not the user's own: a run in which something was changed. Tensors are (batch,).

    Attributes:
        what: what was changed. output_difference: the largest difference of its output from that of the user's model.
        target_difference: its target's value less that of the user's model.
        predicted, own: the class with the highest score of each sample, by it and by the user's model; None where no scores of
            classes (batch, class) were found.
    """

    what: str
    output_difference: float
    target_difference: Tensor
    predicted: Tensor | None = None
    own: Tensor | None = None

    @property
    def same(self) -> Tensor | None:
        """Whether both put the same class first, bool (batch,)."""
        return None if self.predicted is None or self.own is None else self.predicted == self.own

    def of_sample(self, i: int) -> ExplainedModel:
        """That of one sample."""
        parts: dict[str, Any] = {k: v for k, v in vars(self).items() if isinstance(v, Tensor) and i < len(v)}
        return dataclasses.replace(self, **{k: v[i : i + 1] for k, v in parts.items()})

    def as_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        found: dict[str, Any] = as_json({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
        return found

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ExplainedModel:
        """The inverse of `as_dict`."""
        return of_file(cls, values, **{k: torch.tensor(v) for k, v in values.items() if isinstance(v, list)})


@dataclass(repr=False, eq=False)
class Receipt:
    """What was explained, against what, where, and how much of it the map accounts for. Tensors are (batch,).

    `output_difference`, `baseline_value`, `attribution_target`, `attribution_error` and `relative_error` need extra passes.
    Under `measure="lazy"` these are run when one of them is first read, and are then counted in `passes`.

    Attributes:
        target, target_value: what was explained, and its value y.
        baseline, baseline_value: what it was compared with, and the value of y there (None where no unit of y is claimed).
        site: where the map lives. readout: the rows that the target reads, and how that was found.
        attribution_sum: the sum of the map over all tokens, special ones included.
        attribution_target: T = y - y(baseline), by really running the model with the baseline at the site.
        attribution_error: |sum - T|; relative_error: the same over |T|, NaN (undefined) where |T| < 1e-6 max(1, |y|).
        decomposes: whether the method claims that the sum is T. complete: whether the site is a whole frontier.
        output_difference: the largest difference between the output of the watched run and that of the model's own run, the
            plain forward under no_grad. same_output: whether that is rounding. `faithful` is its old name.
        predicted, explained: class indices where the target is a class, else None. classes: what they count: "class", "token"
            or "text". reads: the tokens that the target reads, stream by stream; asked: whether the user named them.
        conservation: Σa / y of a method that claims that its scores add up to y itself, (batch,); else None.
        causal: the causal tests that were run (`Explanation.test`), the last one last.
        surrogate: the linear model whose coefficients the scores are, with its R² and its standard errors; else None.
        mask: the mask over keys of attention whose probabilities the scores are: what it keeps, what is left of y; else None.
        explained_model: the model that the map is of, where it is not the user's own (`heads="single"`); else None.
        default_for: the task that the method was chosen for by `method="auto"` (`regard.preferred`); "" where it was named.
        passes: forward and gradient passes spent, shared ones counted for every method that used them.
        seconds: wall-clock time of those passes and of the method.
    """

    method: str
    target: str
    target_value: Tensor
    baseline: str
    site: str
    readout: str
    attribution_sum: Tensor
    decomposes: bool
    complete: bool
    predicted: Tensor | None
    explained: Tensor | None
    passes: int
    seconds: float
    versions: dict[str, str]
    seed: int
    notes: list[str] = field(default_factory=list)
    classes: str = "class"
    reads: list[ReadTokens] = field(default_factory=list)
    asked: bool = False
    conservation: Tensor | None = None
    causal: list[CausalTest] = field(default_factory=list)
    surrogate: Surrogate | None = None
    mask: LearnedMask | None = None
    explained_model: ExplainedModel | None = None
    default_for: str = ""
    _measured: Measured | None = field(default=None, repr=False)
    _measure: Callable[[], Measured] | None = field(default=None, repr=False, compare=False)

    def measure(self) -> Measured:
        """Run what is still to be measured (once), and count its passes."""
        if self._measured is None:
            self._measured = self._measure() if self._measure is not None else Measured()
            self._measure = None
            self.passes += self._measured.passes
        return self._measured

    @property
    def output_difference(self) -> float | None:
        """max |output difference| between the watched run and the plain forward."""
        return self.measure().output_difference

    @property
    def faithful(self) -> float | None:
        """The old name of `output_difference`."""
        return self.output_difference

    @property
    def same_output(self) -> bool | None:
        """Whether the watched run gave the model's own output, but for rounding; None where that was not measured."""
        if self.output_difference is None:
            return None
        return self.output_difference <= SAME * max(1.0, float(self.target_value.abs().max()))

    @property
    def baseline_value(self) -> Tensor | None:
        """y at the baseline, (batch,)."""
        return self.measure().baseline_value

    @property
    def attribution_target(self) -> Tensor | None:
        """T = y - y(baseline), (batch,)."""
        return self.measure().attribution_target

    @property
    def attribution_error(self) -> Tensor | None:
        """|sum - T|, (batch,)."""
        target = self.attribution_target
        return None if target is None else (self.attribution_sum - target).abs()

    @property
    def relative_error(self) -> Tensor | None:
        """|sum - T| / |T|, NaN where T is nothing, (batch,)."""
        target, error = self.attribution_target, self.attribution_error
        if target is None or error is None:
            return None
        undefined = target.abs() < 1e-6 * self.target_value.abs().clamp(min=1)
        return torch.where(undefined, torch.full_like(error, math.nan), error / target.abs())

    def as_dict(self) -> dict[str, Any]:
        """All fields, measured ones included, as plain Python values (tensors become lists)."""
        measured = self.measure()
        names = [f.name for f in dataclasses.fields(self) if not f.name.startswith("_")]
        values = {name: getattr(self, name) for name in names}
        values["reads"] = [dataclasses.asdict(r) for r in self.reads]
        values["causal"] = [test.as_dict() for test in self.causal]
        values["surrogate"] = None if self.surrogate is None else self.surrogate.as_dict()
        values["mask"] = None if self.mask is None else self.mask.as_dict()
        values["explained_model"] = None if self.explained_model is None else self.explained_model.as_dict()
        values |= {
            "output_difference": measured.output_difference,
            "faithful": measured.output_difference,
            "baseline_value": self.baseline_value,
            "attribution_target": self.attribution_target,
            "attribution_error": self.attribution_error,
            "relative_error": self.relative_error,
        }
        return {k: as_json(v) for k, v in values.items()}

    def of_sample(self, i: int, batch: int) -> Receipt:
        """The receipt of one of `batch` samples: what is to be measured is measured for all, once."""

        def part(value: Any) -> Any:
            return value[i : i + 1] if isinstance(value, Tensor) and value.ndim and len(value) == batch else value

        def measure() -> Measured:
            found = self.measure()
            T = part(found.attribution_target)
            return Measured(found.output_difference, part(found.baseline_value), T, found.passes)

        fields = {f.name: part(getattr(self, f.name)) for f in dataclasses.fields(self) if not f.name.startswith("_")}
        reads = [r.of_sample(i) if len(r.counts) == batch else r for r in self.reads]
        causal = [dataclasses.replace(t, sample=0) for t in self.causal if t.sample == i]
        surrogate = None if self.surrogate is None else self.surrogate.of_sample(i)
        mask = None if self.mask is None else self.mask.of_sample(i)
        other = None if self.explained_model is None else self.explained_model.of_sample(i)
        own = {"notes": list(self.notes), "reads": reads, "causal": causal, "surrogate": surrogate, "mask": mask}
        own |= {"explained_model": other}
        made = Receipt(**(fields | own))
        made._measured, made._measure = (measure(), None) if self._measured is not None else (None, measure)
        return made

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Receipt) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        about = (
            f"{self.method!r}, {one_line(self.target, 48)!r}, site {self.site!r}, baseline {one_line(self.baseline)!r}"
        )
        return f"Receipt({about}, {self.passes} passes{'' if self._measured else ', not measured yet'})"

    def rows(self) -> list[tuple[str, str]]:
        """What it says, name by name, the numbers of each sample one after the other. Runs what is still to be measured."""
        named = {
            "target": self.target,
            "target value": self.target_value,
            "baseline": self.baseline,
            "baseline value": self.baseline_value,
            "site": self.site,
            "read-out": self.readout,
            "sum of the map": self.attribution_sum,
            "attribution target": self.attribution_target,
            "attribution error": self.attribution_error,
            "relative error": self.relative_error,
            "output difference": self.output_difference,
            "conservation": self.conservation,
            "causal test": " ".join(t.sentence for t in self.causal) or None,
            "cost": f"{self.passes} passes, {self.seconds:.2g} s",
            "seed": self.seed,
            "versions": ", ".join(f"{k} {v}" for k, v in self.versions.items()) or None,
        }
        found = [(name, _said(value)) for name, value in named.items() if value is not None]
        return [*found, *(("note", note) for note in self.notes)]

    def __str__(self) -> str:
        return "\n".join([f"receipt of {self.method}", *(beside(k, v, indent=20) for k, v in self.rows())])

    def _repr_html_(self) -> str:
        return as_html((), self.rows(), f"receipt of {self.method}")

    def __getstate__(self) -> dict[str, Any]:
        """A pickle is measured, as a file is: it cannot run the model later."""
        self.measure()
        return self.__dict__ | {"_measure": None}

    @classmethod
    def from_dict(cls, values: Any) -> Receipt:
        """The inverse of `as_dict`."""
        check("the receipt", values, dict[str, Any])
        values = dict(values)
        old = values.pop("faithful", None)
        measured = Measured(
            values.pop("output_difference", old),
            _tensor(values.pop("baseline_value")),
            _tensor(values.pop("attribution_target")),
        )
        check("output_difference", measured.output_difference, float | None)
        for derived in ("attribution_error", "relative_error"):
            values.pop(derived)
        for name in ("target_value", "attribution_sum"):
            values[name] = finite(name, torch.tensor(values[name], dtype=torch.float32))
        values["conservation"] = _tensor(values.get("conservation"))
        for name in ("surrogate", "mask", "explained_model"):
            check(name, values.get(name), dict[str, Any] | None)
        check("causal", values.get("causal", []), list[dict[str, Any]])
        fitted = values.get("surrogate")
        values["surrogate"] = None if fitted is None else Surrogate.from_dict(fitted)
        learned = values.get("mask")
        values["mask"] = None if learned is None else LearnedMask.from_dict(learned)
        other = values.get("explained_model")
        values["explained_model"] = None if other is None else ExplainedModel.from_dict(other)
        for name in ("predicted", "explained"):
            values[name] = None if values[name] is None else torch.tensor(values[name])
        values["reads"] = [of_file(ReadTokens, r) for r in values.get("reads", ())]
        values["causal"] = [CausalTest.from_dict(t) for t in values.get("causal", ())]
        if "classes" not in values:  # saved before receipts said it
            values["classes"] = "text" if values["target"].startswith("similarity") else "class"
        made = of_file(cls, values, _measured=measured)
        _check_lengths(made)
        return made


def _check_lengths(receipt: Receipt) -> None:
    """Raise Damaged where what is said of each sample is not of as many samples."""
    count = len(receipt.target_value)
    for name in ("attribution_sum", "predicted", "explained", "conservation", "baseline_value", "attribution_target"):
        value = getattr(receipt, name)
        if value is not None and value.shape != (count,):
            raise Damaged(f"{name} has {tuple(value.shape)} values of {count} samples")
        if value is not None and name in ("predicted", "explained") and value.dtype != torch.int64:
            raise Damaged(f"{name} holds what is no number of a class")


def _said(value: Any) -> str:
    """A value of the receipt in words; of more than a few samples the first ones."""
    if not isinstance(value, Tensor):
        return f"{value:.3g}" if isinstance(value, float) else one_line(str(value), 1000)
    numbers = [f"{v:.3g}" for v in value.flatten().tolist()[:SAMPLES]]
    return ", ".join([*numbers, *["…"] * (value.numel() > SAMPLES)])


def _tensor(values: list[Any] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32)
