"""Random attention models: what a grammar of hand-written attention gives is explained as by its literal twin.

A draw that fails is shrunk, and printed as a constructor call: paste it into `ONCE_WRONG`. The draws are the same in every run;
`GRAMMAR_SEED=7 pytest tests/families/test_grammar.py -k many` makes others.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import hypothesis
import jaxtyping
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import regard
from regard.errors import ModelError, RegardError
from support import grammar as g
from support import grammar_models as models
from support.grammar import Attention, Layer, Net
from support.grammar_twin import literal
from support.grammar_words import ONCE_WRONG, alone

torch.set_num_threads(1)

TOLERANCE = 1e-5

TARGET = 1

METHODS = [
    "raw_attention",
    "rollout",
    "attention_grad_cam",
    "gae",
    "gradient",
    "input_x_gradient",
    "corrected_attention",
]

AT_INPUT = ("gradient", "input_x_gradient")

SIGNS = ("signed", "absolute")

# -- what is drawn ----------------------------------------------------------------------------------------------------

Pick = Callable[[Sequence[Any]], Any]
"""One of several words, the simplest first: draws shrink to it."""

MOST_LOOPS = 2
"""How many of heads, windows, rows and samples are taken one by one in one attention: more are slow, and bring nothing new."""


def attention(pick: Pick, net: Net, n: int, after: bool) -> Attention:
    """What can be written in a layer of n tokens."""
    keys = "x" if net.padded else pick(("x", "y"))
    values = pick(values_of(net, n))
    layout = pick([w for w in g.LAYOUTS if not (w == "stripes" and net.heads < 2) and not (w == "mha" and not after)])
    causal = keys == "x" and pick((False, True))
    mask = pick(("fill", "add")) if causal or net.padded else "fill"
    a = Attention(keys, values, layout=layout, causal=causal, mask=mask)
    a = replace(a, scores="mha", product="mha") if layout == "mha" else kernel(pick, a, net, after)
    if a.extra == "apart":
        return a
    free = keys == "x" and values in ("same", "shifted") and not net.padded
    if free and layout not in ("b g r n d", "mha") and a.extra != "relative":
        even = {"folded": n % 2 == 0, "shifted": n % 2 == 0 and not causal}
        a = replace(a, windows=pick([w for w in g.WINDOWS if even.get(w, True)]))
    loops = int(layout in ("loop", "loop in a buffer", "modules")) + (a.windows in ("joined", "in a buffer"))
    if layout != "b g r n d" and loops < MOST_LOOPS:
        a = replace(a, rows=pick(g.LOOPS))
    if loops + (a.rows != "whole") < MOST_LOOPS:
        a = replace(a, samples=pick([w for w in g.SAMPLES if w != "stacked" or stackable(a)]))
    return a


def values_of(net: Net, n: int) -> list[str]:
    """Whose tokens the values may be: of the other stream only where there are as many."""
    if net.padded:
        return ["same"]
    return [v for v in g.VALUES if v != "other" or n == net.others]


def kernel(pick: Pick, a: Attention, net: Net, after: bool) -> Attention:
    """Scores, softmax, product, and what else the map multiplies."""
    flat = a.layout in ("samples first", "heads first", "loop", "loop in a buffer", "modules")
    if a.layout not in ("modules", "b g r n d") and net.heads > 1:
        broadcast = a.layout in ("b h n d", "h b n d") and net.heads != 4
        a = replace(a, grouped=pick([w for w in g.GROUPED if w != "broadcast" or broadcast]))
    scores = pick([s for s in g.SCORES if s != "mha" and (flat or not s.startswith("b"))])
    if scores == "sdpa":
        return replace(a, scores=scores, product="sdpa")
    product = pick([p for p in g.PRODUCTS if p not in ("sdpa", "mha") and (flat or p != "bmm")])
    extras = {"none": True, "second": True, "apart": after and a.layout == "b h n d" and a.grouped != "broadcast"}
    extras["relative"] = scores != "einsum transposed" and (a.layout != "b n h d" or scores == "matmul")
    extra = pick([e for e in g.EXTRAS if extras[e]])
    return replace(a, scores=scores, softmax=pick(g.SOFTMAXES), product=product, extra=extra)


def stackable(a: Attention) -> bool:
    """Whether it can be written for one sample without a batch axis."""
    free = a.layout in ("b h n d", "b n h d", "loop", "modules") and a.windows in g.LOOPS
    if (
        a.values == "parameter keys"
    ):  # x @ K.T with a learned K, of a single sample: a linear layer, which the receipt names
        return False
    return free and a.grouped != "broadcast" and a.scores not in ("bmm", "baddbmm") and a.product != "bmm"


def layer(pick: Pick, net: Net, n: int, first: bool) -> Layer:
    """One that n tokens go into. Tokens that are merged before any attention are what the model's tokens are: not drawn."""
    moves = [w for w in g.MOVES if possible(w, n) and not (first and w.startswith(("pairs", "tome")))]
    move = "none" if net.padded else pick(moves)
    two = pick(("one", "two")) == "two"
    after = not two or pick((True, False))
    attentions = tuple(attention(pick, net, g.moved_length(move, n), after) for _ in range(1 + two))
    several = two and all(a.extra != "apart" for a in attentions)
    joined = pick([w for w in g.JOINED if w not in g.SIDES or (several and not after)]) if two else "added"
    return Layer(move, pick(g.RESIDUALS), attentions, after, joined)


def possible(move: str, n: int) -> bool:
    if (move.startswith("pairs") and n % 2) or (move.startswith("tome") and n < 4):
        return False
    return 2 <= g.moved_length(move, n) <= 8


def net(pick: Pick) -> Net:
    """Lengths that coincide, or any; layers one by one, since moves change how many tokens there are."""
    same = pick((0, 3, 0, 4))
    free = (pick((1, 2, 3)), pick((4, 5, 6)), pick((4, 3, 5, 6)), pick((1, 2, 3)), pick((4, 2)))
    batch, tokens, others, heads, size = (same,) * 5 if same else free
    enter, cls, encoded = pick(("features", "linear", "ids")), pick((False, True)), pick((False, True))
    padded = pick((False, False, False, True))
    net = Net(batch, tokens, others, heads, 4 if heads == 1 else size, enter, cls, padded, encoded)
    n, layers = tokens + cls, []
    for _ in range(pick((1, 2, 3))):
        layers.append(layer(pick, net, n, not layers))
        n = g.moved_length(layers[-1].move, n)
    last = layers[-1]
    one = (len(last.attentions) == 1 and last.attentions[0].extra != "apart") or not last.after
    pools = [p for p in g.POOLS if (one or p in ("first", "last")) and not (padded and p in ("last", "max"))]
    return replace(net, layers=tuple(layers), pool=pick(pools), seed=pick(range(10)))


def nets() -> Any:
    """Hypothesis draws each word."""

    @st.composite
    def drawn(draw: Any) -> Net:
        return net(lambda words: draw(st.sampled_from([*words])))

    return drawn()


# -- what must hold ---------------------------------------------------------------------------------------------------


class Tied(Exception):
    """Copies of one token share the maximum that is read out: rounding decides which of them has the gradient."""


def check(net: Net) -> None:
    """Every method as its twin; the last sample alone as in the batch; the run is the model's own. Raises Tied."""
    model, given = models.build(net), models.inputs(net)
    twin = literal(net, model, given, TARGET)
    if twin.tied:
        raise Tied
    out = model(**given).detach()
    assert close(out, twin.logits) < TOLERANCE, "the grammar's model and its twin compute different functions"
    sign = SIGNS[net.seed % len(SIGNS)]
    found = explained(model, given, sign)
    assert next(iter(found.values())).receipt.faithful <= TOLERANCE * float(out.abs().max())
    for name, exp in found.items():
        expected = {s: t for s, t in twin.scores[name].items() if s in exp.scores or not left_out(s, twin.scores, exp)}
        agree(name, exp.scores, expected, twin.scores)
    if net.batch > 1 and net.seed < 2:  # a second run: in every fifth draw
        for name, exp in explained(model, {k: v[-1:] for k, v in given.items()}, sign).items():
            batched = {stream: t[-1:] for stream, t in found[name].scores.items()}
            agree(f"{name}, the last sample alone,", exp.scores, batched, twin.scores)


def explained(model: models.Model, given: dict[str, Tensor], sign: str) -> dict[str, regard.Explanation]:
    options = {"form": "walk"} if "y" in given else {}
    found = regard.explain(model, given, TARGET, METHODS, sign=sign, **options)
    return dict(zip([*METHODS[:-1], f"{METHODS[-1]} {sign}"], found, strict=True))


def agree(
    name: str, scores: dict[str, Tensor], expected: dict[str, Tensor], twins: dict[str, dict[str, Tensor]]
) -> None:
    """On the scale of the whole map; a signed one cancels, and is held on the scale of the absolute one."""
    scale = largest(expected)
    if "signed" in name:
        scale = max(scale, largest(twins["corrected_attention absolute"]))
    for stream in {*scores, *expected}:
        off = float((of_stream(scores, stream) - of_stream(expected, stream)).abs().max())
        assert off <= TOLERANCE * scale, f"{name} of {stream} is off by {off:.2g} of {scale:.2g}"


def left_out(stream: str, scores: dict[str, dict[str, Tensor]], exp: regard.Explanation) -> bool:
    """Whether a stream is looked at by keys alone, so that no map reaches it, and the receipt says that it is left out."""
    reached = any(bool(of[stream].any()) for name, of in scores.items() if name not in AT_INPUT)
    return not reached and any(stream in note for note in exp.receipt.notes)


def of_stream(scores: dict[str, Tensor], name: str) -> Tensor:
    """Scores of a stream; a stream that is not there (one that is looked at by keys alone) has none."""
    return scores[name].double() if name in scores else torch.zeros(1, 1, dtype=torch.float64)


def close(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).abs().max() / b.abs().max())


def largest(scores: dict[str, Tensor]) -> float:
    return max(float(t.abs().max()) for t in scores.values())


# -- tests ------------------------------------------------------------------------------------------------------------

MOST_TIED = 0.02
"""The largest share of draws that may be left out since rounding decides what they read."""


def outcome(net: Net) -> str:
    """ "explained" or "tied". Raises AssertionError for a wrong map, and for a refusal."""
    try:
        check(net)
    except Tied:
        return "tied"
    except RegardError as error:
        raise AssertionError(f"refused: {error}") from error
    return "explained"


@pytest.mark.parametrize("name", alone())
def test_one_word_at_a_time(name: str) -> None:
    assert outcome(alone()[name]) == "explained"


@pytest.mark.parametrize("net", ONCE_WRONG, ids=repr)
def test_once_wrong(net: Net) -> None:
    assert outcome(net) == "explained"


@contextmanager
def types_unchecked() -> Iterator[None]:
    """Without jaxtyping's checks of shapes, for speed; the models of one word run with them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def draw_and_check(count: int) -> None:
    """So many draws: none is wrong or refused."""
    outcomes: Counter[str] = Counter()
    seed = os.environ.get("GRAMMAR_SEED")

    @hypothesis.settings(max_examples=count, derandomize=seed is None, database=None, deadline=None,
                         phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(net=nets())
    def drawn(net: Net) -> None:
        outcomes[outcome(net)] += 1

    with types_unchecked():
        (drawn if seed is None else hypothesis.seed(int(seed))(drawn))()
    print(f"{count} draws:", dict(outcomes))
    assert outcomes.total() >= count
    assert outcomes["tied"] <= MOST_TIED * count, f"{outcomes['tied']} of {count} draws are tied"


def test_random_models_agree_with_their_twins() -> None:
    draw_and_check(50)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_random_models_agree_with_their_twins() -> None:
    draw_and_check(2000)


# -- the test itself --------------------------------------------------------------------------------------------------


def test_a_failing_draw_is_shrunk_and_printed_as_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_where_turned(net: Net) -> None:
        assert all(layer.move != "flip" for layer in net.layers), "turned"

    monkeypatch.setattr(sys.modules[__name__], "check", wrong_where_turned)
    with pytest.raises(AssertionError, match="turned") as failed:
        draw_and_check(200)
    printed = re.search(r"net=(Net\(.*\)),?$", "\n".join(failed.value.__notes__), re.MULTILINE)
    assert printed
    shrunk = eval(printed[1])
    assert shrunk == replace(Net(), layers=shrunk.layers)
    (layer,) = shrunk.layers
    assert layer == Layer(move="flip", attentions=layer.attentions)
    assert len(layer.attentions) == 1


def test_refusals_are_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(net: Net) -> None:
        raise ModelError("no map")

    monkeypatch.setattr(sys.modules[__name__], "check", refuse)
    with pytest.raises(AssertionError, match="refused: no map"):
        outcome(Net())


def test_left_out_draws_are_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    def tie(net: Net) -> None:
        raise Tied

    monkeypatch.setattr(sys.modules[__name__], "check", tie)
    with pytest.raises(AssertionError, match="draws are tied"):
        draw_and_check(20)
