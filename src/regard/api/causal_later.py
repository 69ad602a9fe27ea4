"""What an explanation keeps of its run so that it can be tested when that is asked for: on the model that it explained, or on
one that is given again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from regard.api.causal import Call, Case, fixed
from regard.api.shared_run import Settings, Watched
from regard.errors import Misuse
from regard.explanation import causal_test
from regard.explanation.causal_test import CausalTest, HowTested, Ingredients, LateTest
from regard.explanation.explanation import Explanation
from regard.explanation.generation import Generation
from regard.explanation.raw_inputs import Reading
from regard.recording.ambient import Surroundings
from regard.recording.inputs import Inputs
from regard.recording.refusals import refuse
from regard.target import Target, Value, made_again

MIXED = "samples read tokens of one another here: explain one pair at a time to test its map"
SAME_MODEL = 1e-3
"""A model that is given again must give the target's value, but for this times max(1, |y|)."""


def late_test(w: Watched, wish: Target, target: Target, value: Value) -> LateTest:
    """How an explanation finds its test. wish: the target as it was asked for; target: with its classes fixed."""
    if len(value.y) > 1 and (value.shared or len(value.y) < w.recording.batch):
        return LateTest(refused=MIXED)
    call = w.plain.setdefault("causal", Call())
    number = call.number_of(wish)
    case = Case(w.recording.model, w.recording.given, target, w.reading, w.how, w.around, call, number, wish)
    case = call.cases.setdefault(number, replace(case, rng=w.rng, classes=value.explained, rivals=value.rival))
    ingredients, lacking = _ingredients(w, target)
    return LateTest(case.tests, ingredients=ingredients, lacking=lacking, find=case.units)


def tested_or_noted(exp: Explanation) -> None:
    """Test a map as `measure="causal"` does: where it cannot be tested, its receipt says why."""
    exp.test_unasked(math.inf)
    if exp.untested:
        exp.receipt.notes.append(f"no causal test: {exp.untested}")


def _ingredients(w: Watched, target: Target) -> tuple[Ingredients | None, str]:
    """What it takes to test on a model that is given again, or why that cannot be."""
    given = w.recording.given.given
    values = given.values() if isinstance(given, Mapping) else given if isinstance(given, tuple) else (given,)
    if target.made is None:
        return None, f"its target ({target.label}) is a function, which no file holds"
    if any(not isinstance(v, Tensor | int | float | str | None) for v in values):
        return None, "its inputs are no plain tensors, which alone a file holds"
    if w.how.streams is not None:
        return None, "streams= was given for it, which no file holds"
    inputs = {k: _detached(v) for k, v in given.items()} if isinstance(given, Mapping) else _detached(given)
    return Ingredients(inputs, target.made, dict(w.reading.special), dict(w.reading.prompts), w.how.batch_axis), ""


def _detached(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_detached(v) for v in value)
    return value.detach() if isinstance(value, Tensor) else value


def on_model(model: Any, ingredients: Ingredients) -> causal_test.Compute:
    """What tests on a model that is given again: a module, or a reader of one."""
    module: Any = model if isinstance(model, nn.Module) else getattr(model, "model", model)
    refuse(module, False)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    given = Inputs.of(module, _on(ingredients.inputs, device), ingredients.batch_axis)
    target = made_again(ingredients.target[0], _on(ingredients.target[1], device))
    reading = Reading({}, special=dict(ingredients.special), prompts=dict(ingredients.prompts))
    how = Settings(batch_axis=ingredients.batch_axis).read()

    def tests(exp: Explanation, asked: HowTested, samples: Sequence[int], seconds: float) -> list[CausalTest]:
        case, value, _ = fixed(Case(module, given, target, reading, how, Surroundings.now(), Call(), 0, target))
        _check_same(value.y.detach().float().cpu(), exp, samples)
        return case.tests(exp, asked, samples, seconds)

    return tests


def _on(values: Any, device: torch.device) -> Any:
    """Tensors on a device."""
    if isinstance(values, Mapping):
        return {k: _on(v, device) for k, v in values.items()}
    if isinstance(values, tuple):
        return tuple(_on(v, device) for v in values)
    return values.to(device) if isinstance(values, Tensor) else values


def _check_same(y: Tensor, exp: Explanation, samples: Sequence[int]) -> None:
    """Misuse for a model that gives another target than the explanation says."""
    said = exp.receipt.target_value
    for row, sample in enumerate(samples):
        now, then = float(y[sample]), float(said[min(row, len(said) - 1)])
        if abs(now - then) > SAME_MODEL * max(1.0, abs(then)):
            raise Misuse(
                f"this is not the model that was explained: the target ({exp.target}) is {now:.4g} here, and the receipt says "
                f"{then:.4g}"
            )


def restored(*fields: Any) -> LateTest:
    """An unpickled test. To find this function, pickle imports what tests on a model that is given again."""
    return LateTest(None, *fields)


causal_test.AGAIN[:] = [causal_test.Again(on_model, restored)]


__all__ = ["Explanation", "Generation", "late_test", "on_model", "tested_or_noted"]
