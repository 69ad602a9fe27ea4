"""The causal test against a literal twin: loops, one forward pass for each choice; and what it leaves as found."""

from __future__ import annotations

import itertools
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard import zoo
from regard.api import causal
from regard.attribution.removal.chance import ranked, size_of
from regard.errors import Misuse, UnknownName
from regard.explanation.causal_test import FEW, CausalTest, Outcome
from support.as_found import assert_unchanged, state
from support.handmade import Attending

torch.set_num_threads(1)


def case(tokens: int = 12, batch: int = 1) -> tuple[Attending, Tensor]:
    model = Attending(tokens)
    return model, torch.randn(batch, tokens, Attending.width, dtype=torch.float64)


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The random choices as they are drawn."""
    seen: list[Tensor] = []
    real = causal.subsets_of_size

    def subsets(*args: Any, **how: Any) -> Tensor:
        seen.append(real(*args, **how))
        return seen[-1]

    monkeypatch.setattr(causal, "subsets_of_size", subsets)
    return seen


def twin(model: Attending, x: Tensor, c: int, scores: Tensor, choices: Tensor, share: float) -> dict[str, float]:
    """formulas.md section 12, word for word: one forward pass for every choice."""
    n = len(scores)
    k = next(k for k in range(1, n) if math.comb(n, k) >= 50)
    k = max(math.ceil(share * n), k)
    order = sorted(range(n), key=lambda i: -float(scores[i]))

    def y(away: list[int]) -> float:
        keep = torch.tensor([i not in away for i in range(n)])
        with torch.no_grad():
            return float(model(x, keep)[0, c])

    y0, high, low = y([]), order[:k], order[-k:]
    sets = [row.nonzero()[:, 0].tolist() for row in choices]
    rest = [[i for i in range(n) if i not in s] for s in sets]
    drops, kept = [y0 - y(s) for s in sets], [y(s) for s in rest]
    d_high, d_low, keep = y0 - y(high), y(low) - y0, y([i for i in range(n) if i not in high])
    p = lambda count: (1 + count) / (len(sets) + 1)  # noqa: E731
    return {
        "with_best": sum(order[0] in s for s, d in zip(sets, drops, strict=True) if d >= d_high),
        "with_last": sum(order[-1] in s for s, d in zip(sets, drops, strict=True) if -d >= d_low),
        "with_kept": sum(order[0] in s for s, v in zip(sets, kept, strict=True) if v >= keep),
        "k": k,
        "drop": d_high,
        "random_median": float(torch.tensor(drops, dtype=torch.float64).quantile(0.5)),
        "p_value": p(sum(d >= d_high for d in drops)),
        "rise": d_low,
        "rise_p_value": p(sum(-d >= d_low for d in drops)),
        "keep": keep,
        "keep_p_value": p(sum(v >= keep for v in kept)),
    }


@pytest.mark.parametrize("share", [0.1, 0.34])
def test_it_is_the_formula(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    model, x = case(24)
    seen = drawn(monkeypatch)
    exp = regard.explain(model, x, 1, "input_x_gradient")
    found = exp.test(share, sufficiency=True)
    assert isinstance(found, CausalTest)
    expected = twin(model, x, 1, exp.scores["x" if "x" in exp.scores else "input"][0], seen[0], share)
    assert found.random == len(seen[0]) == 49
    assert not found.every
    assert (found.k, found.units, found.unit, found.removal) == (expected["k"], 24, "token", "left out of attention")
    assert found.lowest is not None
    mine = {"drop": found.drop, "random_median": found.random_median, "keep": found.keep, "rise": found.lowest.change}
    for name, value in mine.items():
        assert value == pytest.approx(expected[name], abs=1e-9), name
    assert found.p_value == expected["p_value"]
    assert found.lowest.p_value == expected["rise_p_value"]
    assert found.keep_p_value == expected["keep_p_value"]
    held = [o.with_best for o in (found.highest, found.lowest, found.kept) if o is not None]
    assert held == [expected["with_best"], expected["with_last"], expected["with_kept"]]


def test_of_few_choices_all_others_are_run() -> None:
    model, x = case(8)
    exp = regard.explain(model, x, 1, "input_x_gradient")
    found = exp.test()
    scores = exp.scores["input"][0]
    every = torch.zeros(56, 8, dtype=torch.bool)
    for row, some in zip(every, itertools.combinations(range(8), 3), strict=True):
        row[list(some)] = True
    highest = torch.zeros(8, dtype=torch.bool).index_fill_(0, scores.topk(3).indices, True)
    others = every[~(every == highest).all(1)]
    expected = twin(model, x, 1, scores, others, 0.1)
    assert found.every
    assert (found.k, found.random, found.p_value) == (3, 55, expected["p_value"])
    assert found.highest is not None
    assert found.highest.with_best == expected["with_best"]
    assert found.drop == pytest.approx(expected["drop"], abs=1e-9)
    assert "of the 55 other choices" in found.sentence


@pytest.mark.parametrize(
    ("n", "share", "k"), [(7, 0.1, 0), (8, 0.1, 3), (12, 0.1, 2), (50, 0.01, 1), (64, 0.1, 7), (60, 0.05, 3)]
)
def test_how_many_are_taken(n: int, share: float, k: int) -> None:
    assert size_of(n, share) == k


def test_few_tokens_are_no_failure() -> None:
    model, x = case(7)
    found = regard.explain(model, x, 1).test()
    assert (found.tested, found.p_value, found.better_than_chance) == (False, None, None)
    assert found.sentence == "Too few tokens to test (7 tokens; at least 8 are needed)."


def test_equal_scores_are_put_in_an_order_that_is_drawn() -> None:
    scores = torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0, 0.0])
    orders = {tuple(ranked(scores, torch.Generator().manual_seed(s)).tolist()) for s in range(40)}
    assert {o[:2] for o in orders} == {(1, 4)}
    assert len(orders) > 10


def test_methods_and_targets_share_the_choices_and_their_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = case(24)
    seen, runs = drawn(monkeypatch), [0]
    hook = model.register_forward_hook(lambda m, i, out: runs.__setitem__(0, runs[0] + len(out)))
    found = regard.explain(model, x, [0, 1, 2], ["gae", "input_x_gradient", "random"])
    tests = [e.test() for e in found]
    hook.remove()
    assert all(torch.equal(seen[0], other) for other in seen)
    shared, own = 49, 9 + 3
    assert runs[0] <= shared + own + 9 * 4, "the random choices were run once"
    again = regard.explain(model, x, 2, "input_x_gradient").test()
    assert again.highest == tests[5].highest
    other = found[0].test(seed=1)
    assert other.highest.random != tests[0].highest.random
    assert other.drop == pytest.approx(tests[0].drop)


def test_a_batch_is_its_samples() -> None:
    model, x = case(24, batch=3)
    exp = regard.explain(model, x, 1)
    found = exp.test()
    assert [t.sample for t in found] == [0, 1, 2]
    for i, one in enumerate(found):
        alone = regard.explain(model, x[i : i + 1], 1).test()
        assert (alone.p_value, alone.k) == (one.p_value, one.k)
        assert alone.drop == pytest.approx(one.drop, abs=1e-9)
        assert exp[i].test().p_value == one.p_value
        assert exp[i].receipt.causal[0].sample == 0


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_found(fails: bool) -> None:
    model, x = case(24)
    exp = regard.explain(model, x, 1)
    before = state(model, x)
    if fails:
        real = model.head.forward
        model.head.forward = lambda z: real(z) if len(z) == 1 else 1 / 0  # type: ignore[method-assign, assignment]
        with pytest.raises(ZeroDivisionError):
            exp.test()
        del model.head.forward
    else:
        exp.test()
    assert_unchanged(before, state(model, x))


def test_a_saved_test_is_loaded_and_an_unsaved_one_needs_the_model(tmp_path: Path) -> None:
    model, x = case(24)
    exp = regard.explain(model, x, 1, "input_x_gradient")
    found = exp.test(sufficiency=True)
    assert exp.receipt.causal == [found]
    loaded = regard.Explanation.load(exp.save(tmp_path / "a.safetensors"))
    unpickled = pickle.loads(pickle.dumps(exp))
    for copy in (loaded, unpickled):
        assert copy.receipt.causal == [found]
        assert copy.test(sufficiency=True) == found
        with pytest.raises(Misuse, match=r"without its model.*give it: test\(model=...\)"):
            copy.test(seed=3)
        again = copy.test(seed=3, model=model)
        assert again.highest == exp.test(seed=3).highest
        with pytest.raises(Misuse, match="not the model that was explained"):
            copy.test(seed=4, model=case(24)[0].__class__(24).double().apply(_shaken))


def _shaken(module: nn.Module) -> None:
    for p in module.parameters(recurse=False):
        p.data += 0.1


def test_a_function_as_the_target_is_tested_on_the_spot_alone(tmp_path: Path) -> None:
    model, x = case(24)
    exp = regard.explain(model, x, lambda out: out[:, 0] - out[:, 1])
    assert exp.test().number == "target"
    loaded = regard.Explanation.load(exp.save(tmp_path / "a.safetensors"))
    with pytest.raises(Misuse, match="is a function, which no file holds"):
        loaded.test(seed=1, model=model)


def test_measure_causal_tests_at_once() -> None:
    model, x = case(24)
    exp = regard.explain(model, x, 1, measure="causal")
    (found,) = exp.receipt.causal
    assert exp.receipt.passes >= found.passes > 49


def test_the_receipt_counts_the_passes_of_a_test_and_their_time() -> None:
    model, x = case(24)
    exp = regard.explain(model, x, 1)
    passes, seconds = exp.receipt.passes, exp.receipt.seconds
    found = exp.test()
    assert exp.receipt.passes == passes + found.passes
    assert exp.receipt.seconds > seconds
    exp.test()  # what was found is not run again
    assert exp.receipt.passes == passes + found.passes


def test_a_test_at_once_is_among_the_values_of_the_receipt() -> None:
    model, x = case(24)
    exp = regard.explain(model, x, 1, measure="causal")
    (found,) = exp.receipt.causal
    assert exp.to_dict()["receipt"]["causal"][0]["highest"]["p_value"] == found.p_value


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"share": 0.0}, "above 0 and at most 0.5"),
        ({"share": 0.8}, "above 0 and at most 0.5"),
        ({"random": 10}, "from 19 to 100000, not 10: with fewer no map"),
        ({"seed": -1}, "seed is a whole number"),
        ({"unit": "word"}, "no words are known"),
        ({"unit": "wort"}, "did you mean 'word'"),
        ({"stream": "nothing"}, "unknown stream of an input"),
    ],
)
def test_what_cannot_be_asked(given: dict[str, Any], says: str) -> None:
    model, x = case(24)
    with pytest.raises((Misuse, UnknownName), match=says):
        regard.explain(model, x, 1).test(**given)


def outcome(y: float, as_far: int, change: float = 1.0, p: float | None = None) -> Outcome:
    return Outcome(y, change, 0.1, as_far, (1 + as_far) / 50, p)


SAID = {
    "stream": "x",
    "unit": "patch",
    "units": 64,
    "share": 0.1,
    "k": 6,
    "random": 49,
    "value": 3.31,
    "number": "logit",
}


def test_what_it_says() -> None:
    good = CausalTest(**SAID, highest=outcome(0.4, 0, 2.91, 0.12), probability=0.87)
    assert good.sentence == (
        "Without the 6 highest of 64 patches the logit falls from 3.31 to 0.4 (87 % to 12 %); of 49 random choices none falls "
        "as far (p = 0.02)."
    )
    bad = CausalTest(**SAID, label="Bag", highest=outcome(3.2, 20, 0.11))
    assert bad.sentence == (
        "Without the 6 highest of 64 patches the logit of Bag falls from 3.31 to 3.2; of 49 random choices 20 fall as far "
        "(p = 0.42). The map fails: here it is not better than chance."
    )
    wrong = CausalTest(**SAID, highest=outcome(3.5, 40, -0.19))
    assert "rises from 3.31 to 3.5; of 49 random choices 40 rise no farther (p = 0.82)" in wrong.sentence
    first_alone = replace(outcome(0.4, 8, 2.91, 0.12), with_best=8)
    said = CausalTest(**SAID, highest=first_alone, probability=0.87, label="Bag")
    assert "8 fall as far, and all 8 take away the highest patch, too (p = 0.18). The map fails" in said.sentence
    assert "8 of 49 random choices fall as far, and all 8 take away the highest patch, too (p = 0.18)" in said.verdict
    for other in (replace(first_alone, with_best=7), replace(first_alone, change=-0.1), outcome(0.4, 1)):
        assert "too" not in CausalTest(**SAID, highest=other).sentence  # not by it, not in its direction, and it passes
    both = CausalTest(**SAID, highest=outcome(0.4, 1), lowest=outcome(4.0, 0), kept=outcome(3.0, 2))
    assert (
        "1 falls as far (p = 0.04). Without the 6 lowest it rises from 3.31 to 4; of 49 random choices none rises"
        in both.sentence
    )
    assert both.sentence.endswith("With only the 6 highest it is 3; of 49 random choices 2 keep as much (p = 0.06).")


# -- zoo ---------------------------------------------------------------------------------------------------------------


def test_words_patches_regions_objects_and_prompts() -> None:
    vit, bert = regard.load("zoo/vit-scenes"), regard.load("zoo/bert-sentiment")
    scene = regard.zoo.demo_scene()
    found = vit.explain(str(scene)).test()
    assert (found.unit, found.units, found.k, found.number) == ("patch", 64, 7, "logit")
    assert found.label in vit.labels
    likely = vit.explain(str(scene), regard.Target.probability()).receipt.target_value
    assert found.probability == pytest.approx(float(likely), abs=1e-4)
    text = bert.explain("She gives a superb performance as the young teacher.").test()
    assert (text.unit, text.label) == ("word", "positive")
    assert text.better_than_chance
    assert bert.explain("A bad film.").test().sentence.startswith("Too few tokens to test (4 words")


def test_prompts_of_generations(tmp_path: Path) -> None:
    """Tokens of the prompt alone are units; the random choices are run once for all that was written."""
    llama = regard.load("zoo/llama-facts")
    written = llama.explain_generation(zoo.facts(1)[0].prompt, 2)
    tests = [exp.test() for exp in written]
    assert {t.units for t in tests} == {
        written.start - 1 - 1
    }  # but for the first, special one, and the last, which is read
    assert [t.number for t in tests] == ["logit", "logit"]
    call = written[0].late_test.compute.__self__.call
    assert [sorted(by) for by in call.drawn.values()] == [[0, 1]]
    loaded = regard.Generation.load(written.save(tmp_path / "g.safetensors"))
    assert loaded[1].test() == tests[1]
    assert loaded[1].test(seed=1, model=llama).highest == written[1].test(seed=1).highest


def test_of_what_is_written_about_a_picture_its_patches_are_tested_where_the_prompt_is_short() -> None:
    reader, told = regard.load("zoo/vlm-scenes"), zoo.answers()
    row = told.kinds.index("what")
    written = reader.explain_generation((told.images[int(told.scene[row])].numpy(), told.prompts[row]), 3, "attnlrp")
    found = written[1].test()
    assert (found.stream, found.unit, found.units) == ("pixel_values", "patch", 64)
    assert written[1].test(stream="input_ids").reason == FEW
    assert written[1].test(stream="input_ids").stream == "input_ids"


@pytest.mark.long
def test_random_maps_pass_by_chance_alone_and_gae_finds_the_item() -> None:
    """p of random maps of 200 scenes are uniform; of scenes of one item at least 85 % of gae's maps are better than chance."""
    stats = pytest.importorskip("scipy.stats")
    reader, scenes = regard.load("zoo/vit-scenes"), zoo.scenes()
    p: dict[str, list[float]] = {"random": [], "gae": []}
    for some in torch.arange(200).split(20):
        pictures = [scenes.images[i].numpy() for i in some]
        for exp in reader.explain(pictures, target=scenes.labels[some, 0], method=[*p]):
            p[exp.method] += [t.p_value for t in exp.test(0.05)]
    assert len(p["random"]) == 200
    assert stats.kstest(p["random"], "uniform").pvalue > 0.01
    single = [v for v, alone in zip(p["gae"], scenes.single.tolist(), strict=True) if alone]
    assert sum(v <= 0.05 for v in single) / len(single) >= 0.85


def test_a_test_that_is_too_dear_is_found_out_once_for_all_targets_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of many written words runs the model once, not once a word, to say that it will not test them."""
    recorded: list[causal.Case] = []
    record = causal.Case.recorded
    monkeypatch.setattr(causal.Case, "recorded", lambda case: recorded.append(case) or record(case))
    found = regard.load("zoo/bert-sentiment").explain(TOO_LONG, [0, 1])
    for exp in found:
        exp.test_unasked(0.0)
        assert exp.untested.startswith("it would take about")
    assert len(recorded) == 1
    found[0].test()  # which draws for both
    found[1].test_unasked(math.inf)
    assert found[1].receipt.causal
    assert found[1].untested == ""


TOO_LONG = "a wonderful and moving film , but the end is dull and far too long"
