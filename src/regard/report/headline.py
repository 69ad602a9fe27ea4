"""What a figure says in words: what is explained, with its probability where that is known, and one line on the map."""

from __future__ import annotations

import re

from regard.explanation.explanation import Explanation
from regard.explanation.names import class_name
from regard.explanation.percents import percent
from regard.report.receipt import at, differs
from regard.report.view import class_of, fits_texts, method_of, target_of

OF_A_CLASS = re.compile(r"(logit|probability|log-probability|next token)\b(?!.* less )")
"""Targets that are of one class begin so."""
WRITTEN = re.compile(r"[\w-]+ of (['\"])(.+)\1 \(token \d+, number \d+ written\)")
"""The target of a token that was written."""


def headline(exp: Explanation, sample: int = 0) -> str:
    """`Trouser 87 %`: the explained class and its probability, where there is one at hand; of another target its own words."""
    likely = probability(exp, sample)
    share = "" if likely is None else f" {percent(likely) if exp.found is None else exp.found.percent}"
    if fits_texts(exp):
        return f"{_text(exp, sample)}{share}"
    written = WRITTEN.fullmatch(exp.target)
    named = f"“{written[2]}”" if written else class_name(exp, sample)
    if named and (exp.found is not None or OF_A_CLASS.match(exp.target)):
        return f"{named}{share}"
    rivals = re.fullmatch(r"contrast class (\d+) - class (\d+)", exp.target)
    known = exp.labels or []
    if rivals and all(int(i) < len(known) for i in rivals.groups()):
        return " rather than ".join(known[int(i)] for i in rivals.groups())
    return re.sub("^'(.+)' rather than '(.+)'$", r"\1 rather than \2", target_of(exp, sample))


def caption(exp: Explanation, sample: int = 0) -> str:
    """One line: the method, what the model predicts instead, what share the map accounts for if it claims all, and whether it
    was found better than chance."""
    return " · ".join(
        [method_of(exp), *_instead(exp, sample), *_share(exp, sample), *_verdict(exp, sample), *_warned(exp)]
    )


def probability(exp: Explanation, sample: int = 0) -> float | None:
    """The explained class's, where the explanation holds it; None elsewhere. Runs nothing."""
    if exp.found is not None:
        return exp.found.probability
    if not (fits_texts(exp) or OF_A_CLASS.match(exp.target)):
        return None
    if exp.target.startswith("probability"):
        return at(exp.receipt.target_value, sample)
    c = at(exp.receipt.explained, sample)
    if exp.compared is not None and c is not None:
        shares = exp.compared.probabilities
        return None if shares is None else shares[_class(exp, int(c))]
    likely = exp.prediction[sample] if exp.prediction is not None and sample < len(exp.prediction) else ()
    tests = [t.probability for t in exp.receipt.causal if t.sample == sample]
    known = [*(k.probability for k in likely if k.number == c), *tests]
    return next((p for p in known if p is not None), None)


def _text(exp: Explanation, sample: int) -> str:
    """The class of texts that a picture is compared with."""
    c = at(exp.receipt.explained, sample)
    return target_of(exp, sample) if exp.compared is None or c is None else exp.compared.names[_class(exp, int(c))]


def _class(exp: Explanation, c: int) -> int:
    """The class of texts that a number on the receipt means: of a text, which may be one of several of its class."""
    return c // exp.compared.templates if fits_texts(exp) and exp.compared is not None else c


def _instead(exp: Explanation, sample: int) -> list[str]:
    explained, predicted = (class_of(exp, c, sample) for c in (exp.receipt.explained, exp.receipt.predicted))
    if fits_texts(exp) or None in (explained, predicted) or explained == predicted:
        return []
    return [f"the model predicts {predicted}"]


def _share(exp: Explanation, sample: int) -> list[str]:
    """What the map accounts for, where its method claims to account for all."""
    r = exp.receipt
    change = at(r.attribution_target, sample) if r.decomposes else None
    if not change or change != change:
        return []
    share = f"{100 * (at(r.attribution_sum, sample) or 0.0) / change:.0f}".replace("-", "\u2212")
    return [f"accounts for {share} % of what there is to explain"]


def _verdict(exp: Explanation, sample: int) -> list[str]:
    found = next((t for t in exp.receipt.causal if t.sample == sample and t.p_value is not None), None)
    if found is None:
        return []
    return [f"{'better' if found.better_than_chance else 'not better'} than chance (p = {found.p_value:.2g})"]


def _warned(exp: Explanation) -> list[str]:
    r = exp.receipt
    return [] if r.output_difference is None or r.same_output else [f"output {differs(r.output_difference)}"]


__all__ = ["caption", "headline", "probability"]
