"""The receipt in plain language: one line an item, the same words in pictures, pages and the terminal."""

from __future__ import annotations

from typing import Any, NamedTuple

from regard.explanation.causal_test import CausalTest
from regard.explanation.explanation import Explanation
from regard.explanation.names import stream_name, token_name
from regard.explanation.receipt import ReadTokens, Receipt
from regard.preferred import PREFERRED
from regard.report.colour import number
from regard.report.view import class_of, fits_texts, target_of

SAME = "same output as your model ✓"


class ReceiptLine(NamedTuple):
    """An item of the receipt: its `name`, its `value`, and what that says in plain words (may be empty)."""

    name: str
    value: str
    meaning: str = ""


def lines(exp: Explanation, sample: int = 0) -> list[ReceiptLine]:
    """The whole receipt of one sample. Runs what is still to be measured."""
    r = exp.receipt
    return [
        _target(exp, sample),
        *_method(r),
        _baseline(r, sample),
        ReceiptLine("site", r.site, "" if r.site == "none" else "where in the model the scores live"),
        ReceiptLine("read-out", read_out(exp, sample), "the tokens that the target reads"),
        ReceiptLine("sum of the map", number(at(r.attribution_sum, sample)), "over all tokens, special ones included"),
        *_conservation(r, sample),
        *_surrogate(r, sample, exp.of_pairs),
        *_mask(r, sample),
        *_explained_model(r, sample),
        *_error(r, sample),
        _output(r),
        *causal(exp, sample),
        *(ReceiptLine("trust", t.sentence, t.limits) for t in exp.late_trust.found if t.sample == sample),
        ReceiptLine(
            "cost", f"{r.passes} passes, {r.seconds:.2g} s", "forward and gradient passes, those of the checks included"
        ),
        ReceiptLine("seed", str(r.seed)),
        ReceiptLine("versions", ", ".join(f"{k} {v}" for k, v in r.versions.items()) or "not recorded"),
        *(ReceiptLine("note", note) for note in r.notes),
    ]


def _method(r: Receipt) -> list[ReceiptLine]:
    """What the method was chosen for, and why, where nobody named one."""
    task = chosen_for(r)
    return [ReceiptLine("method", r.method, f"the default for {task}: {PREFERRED[r.default_for].why}")] if task else []


def chosen_for(r: Receipt) -> str:
    """The task that the method is the default for, in words, where nobody named another; "" elsewhere."""
    preferred = PREFERRED.get(r.default_for) if r.default_for else None
    return preferred.task if preferred and r.method == preferred.names[0] else ""


def _target(exp: Explanation, sample: int) -> ReceiptLine:
    r = exp.receipt
    explained, predicted = class_of(exp, r.explained, sample), class_of(exp, r.predicted, sample)
    if explained is None or predicted is None:
        meaning = ""
    elif fits_texts(exp):
        meaning = "no text given fits better" if explained == predicted else f"{predicted} fits better"
    elif explained == predicted:
        meaning = "this is what the model predicts"
    else:
        meaning = f"the model predicts {predicted} instead"
    said = target_of(exp, sample) if exp.found is None else f"logit of {exp.found.label!r}"
    return ReceiptLine("target", f"{said} = {number(at(r.target_value, sample))}", meaning)


def read_out(exp: Explanation, sample: int) -> str:
    """The tokens that one sample's target reads, by their names, and who found them."""
    r = exp.receipt
    found = [(x, min(sample, len(x.counts) - 1)) for x in r.reads]
    parts = [_tokens(exp, x, i, sample) for x, i in found if x.counts[i]]
    if not parts:
        return r.readout
    several = any(x.counts[i] > 1 for x, i in found)
    who = "as you asked" if r.asked else "as the gradient shows" + ", each by how much it counts" * several
    return f"{' and '.join(dict.fromkeys(parts))}, {who}"


def _tokens(exp: Explanation, read: ReadTokens, i: int, sample: int) -> str:
    count = read.counts[i]
    if count == 1:
        return token_name(exp, read.stream, read.first[i], sample)
    return f"{count} tokens of the {stream_name(exp, read.stream)}"


def _baseline(r: Receipt, sample: int) -> ReceiptLine:
    value = at(r.baseline_value, sample)
    said = "" if value is None else f"the target is {number(value)} there"
    return ReceiptLine("baseline", r.baseline, said)


def _conservation(r: Receipt, sample: int) -> list[ReceiptLine]:
    """What share of the target itself the map adds up to, where the method says that it is all of it."""
    share = at(r.conservation, sample)
    if share is None:
        return []
    return [ReceiptLine("conservation", f"{share:.3g}", "the sum of the map over the target; the method aims at 1")]


def _surrogate(r: Receipt, sample: int, of_pairs: bool) -> list[ReceiptLine]:
    """How well the linear model fits whose coefficients the scores are, and how far they would move with other draws."""
    fit = r.surrogate
    if fit is None:
        return []
    i = min(sample, len(fit.r2) - 1)
    r2 = float(fit.r2[i])
    said = f"R² {r2:.3g}" if r2 == r2 else "R² undefined"
    runs = f"{int(fit.runs[i])} runs without some of {int(fit.units[i])} units"
    line = ReceiptLine("linear model", said, f"the share of the target's variance that it explains, over {runs}")
    if of_pairs:
        unseen = "" if bool(fit.exact[i]) else " on unseen masks"
        of = "on all masks" if bool(fit.exact[i]) else "on masks that it was not fitted to"
        line = ReceiptLine(
            "model of pairs",
            said + unseen,
            f"the share of the target's variance that units and pairs explain {of}; {runs}",
        )
    return [line, _errors_of_draws(r, i)] if int(fit.units[i]) else [line]


def _errors_of_draws(r: Receipt, i: int) -> ReceiptLine:
    fit = r.surrogate
    assert fit is not None
    if bool(fit.exact[i]):
        return ReceiptLine("standard error", "0", "every subset of the units was run: no draw would change the map")
    largest = max(float(errors[min(i, len(errors) - 1)].max()) for errors in fit.standard_errors.values())
    said = "undefined, too few runs for so many units" if largest != largest else f"at most {number(largest)}"
    return ReceiptLine("standard error", said, "of a score, over other draws of the subsets")


def _mask(r: Receipt, sample: int) -> list[ReceiptLine]:
    """How many keys a learned mask keeps, and what they leave of the target."""
    if r.mask is None:
        return []
    mask = r.mask.of_sample(min(sample, len(r.mask.keys) - 1))
    keys, kept, left, none = (float(t) for t in (mask.keys, mask.kept, mask.left, mask.none))
    said = f"keeps {kept:.0f} of {keys:.0f} keys"
    y = number(at(r.target_value, sample))
    alone = f"the target is {number(left)} of {y} where attention looks at these alone, {number(none)} at none of them"
    return [ReceiptLine("mask", said, alone)]


def _explained_model(r: Receipt, sample: int) -> list[ReceiptLine]:
    """By how much the model that the map is of differs from the user's."""
    if r.explained_model is None:
        return []
    other = r.explained_model.of_sample(min(sample, len(r.explained_model.target_difference) - 1))
    said = f"another model: {other.what}"
    moved = number(abs(float(other.target_difference[0])))
    same = other.same
    ranks = (
        ""
        if same is None
        else f"; both put the same {r.classes} first"
        if bool(same[0])
        else (f"; it puts another {r.classes} first")
    )
    more = (
        f"its output differs from your model's by up to {number(other.output_difference)}, the target by {moved}{ranks}"
    )
    return [ReceiptLine("explained model", said, more)]


def _error(r: Receipt, sample: int) -> list[ReceiptLine]:
    """T, ε and what they say; `undefined` where the method has no unit of the target."""
    change, error = at(r.attribution_target, sample), at(r.attribution_error, sample)
    if change is None:
        return [ReceiptLine("attribution error", "undefined", "this method's scores have no unit of the target")]
    claim = "" if r.decomposes else "; the method does not claim to account for all of it"
    frontier = "" if r.complete else "; what passes this site by is left out"
    ratio = percent(at(r.relative_error, sample))
    return [
        ReceiptLine(
            "change to explain", number(change), "how far the target moves when the site is set to the baseline"
        ),
        ReceiptLine("attribution error", number(error), accounts(r, sample) + claim + frontier),
        ReceiptLine("relative error", ratio, "the target hardly moves" if ratio == "undefined" else ""),
    ]


def accounts(r: Receipt, sample: int = 0) -> str:
    """`the map accounts for x of y`, or why that cannot be said."""
    change = at(r.attribution_target, sample)
    if change is None:
        return "undefined"
    return f"the map accounts for {number(at(r.attribution_sum, sample))} of {number(change)}"


def _output(r: Receipt) -> ReceiptLine:
    value = r.output_difference
    if value is None:
        return ReceiptLine("output", "not compared", "the watched run was not compared with your model's own run")
    if r.same_output:
        return ReceiptLine("output", SAME, "" if value == 0 else f"up to rounding: {number(value)} at most")
    return ReceiptLine("output", differs(value), "what was watched is not your model's own run: do not trust this map")


def causal(exp: Explanation, sample: int) -> list[ReceiptLine]:
    """The causal tests that were run; why there is none where a page would have shown one."""
    if exp.untested:
        return [ReceiptLine("causal test", "not run", exp.untested)]
    tests = [t for t in exp.receipt.causal if t.sample == sample]
    return [ReceiptLine("causal test", t.sentence, about(t) if t.tested else "") for t in tests]


def about(test: CausalTest) -> str:
    """What kind of test it is, and what it cost."""
    plural = test.units_called.partition(" ")[2]
    return f"{plural} are {test.removal}; a test of this map on this input, not of the method; {test.passes} passes"


def differs(value: float) -> str:
    """How far the watched run's output is from the model's own."""
    return f"differs from your model's by up to {number(value)}"


def at(values: Any, sample: int) -> float | None:
    """A sample's value of a receipt tensor; a single value stands for all samples."""
    if values is None:
        return None
    flat = values.detach().cpu().reshape(-1)
    return float(flat[min(sample, len(flat) - 1)]) if len(flat) else None


def percent(value: float | None) -> str:
    """A ratio as percents."""
    return "undefined" if value is None or value != value else f"{100 * value:.3g} %"
