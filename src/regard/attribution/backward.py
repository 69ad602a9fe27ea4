"""x ⊙ ∂y/∂x by rules of the backward pass: AttnLRP, CP-LRP, gim (formulas.md section 11). A method is (rule set, what is read).

These claim Σa = y, and not y − y(baseline): what of y the scores add up to is on the receipt (`conservation`). CP-LRP keeps
that exactly in decoders without biases whose norms only divide; AttnLRP loses some of it at each softmax, and every bias takes
its share.

The authors of LRP say of it that it is patented in some countries, and free for personal and scientific use only. The rule sets
are this one file, which can be left out of a build; nothing else imports it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from regard.attribution.context import Context, Relevance
from regard.attribution.integral.gradient import input_x_gradient
from regard.attribution.integral.path import path, sealed
from regard.baseline import Baseline
from regard.errors import Misuse
from regard.recording.backward import RuleSet

RULES = {
    "attnlrp": RuleSet("attnlrp"),
    "cp_lrp": RuleSet("cp_lrp", attention="constant", gates=True),
    "gim": RuleSet("gim", attention="warmer", activation=False),
}


def rule_set(name: str, *, gamma: float = 0.0) -> RuleSet:
    """The rule set of a method, with its options."""
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 <= gamma < float("inf"):
        raise Misuse(f"gamma is a number from 0 on, not {gamma!r}")
    return replace(RULES[name], gamma=float(gamma))


def attnlrp(context: Context, *, gamma: float = 0.0) -> Relevance:  # noqa: ARG001 (it is in the rule set)
    """AttnLRP (Achtibat et al., ICML 2024): half of each product's relevance to each operand, norms divide by a constant, an
    activation is the line through 0 and its value.

    gamma: LRP's γ rule in linear maps and convolutions (0: the plain one); our reading for inputs of either sign
    (recording/backward/functions.py).
    """
    return read(context)


def cp_lrp(context: Context) -> Relevance:
    """CP-LRP (Ali et al., ICML 2022): attention weights and gates are constants; norms and activations as in AttnLRP."""
    return read(context)


def gim(context: Context) -> Relevance:
    """Gradient interaction modifications: softmaxes have their gradient at temperature 2, norms divide by a constant, and each
    operand of a product has half; activations keep their own gradient."""
    return read(context)


def read(context: Context) -> Relevance:
    """Σ F ⊙ ∂y/∂F over each token's features, at the inputs (word embeddings for ids) or another site."""
    context.notes += _left_plain(context)
    if context.site is None or context.site.kind == "input":
        return input_x_gradient(context)
    context.reference = path(context, context.site, Baseline.zero().local())
    _, places = sealed(context, context.site)
    gradients: dict[Any, Any] = {**context.gradients.states, **context.gradients.inputs}
    out = context.recording.zeros()
    for place in places:
        out = out + place.rows(place.F * gradients[place.key], context.recording)
    return out


def _left_plain(context: Context) -> list[str]:
    """A note for each operation that no rule is for, with the modules in which it is."""
    modules: dict[str, list[str]] = {}
    for operation, module in context.recording.plain:
        modules.setdefault(operation, []).append(module or "the model itself")
    return [f"plain gradient through {op} at {_listed(where)}" for op, where in modules.items()]


def _listed(modules: list[str]) -> str:
    """Modules by name; of many, the first three."""
    more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
    return ", ".join(modules[:3]) + more


__all__ = ["RULES", "attnlrp", "cp_lrp", "gim", "rule_set"]
