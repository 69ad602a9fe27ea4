"""What the doctor asks: ranks among random removals against a literal twin, noise, agreement, weights drawn anew."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

import regard
from regard.api import causal_rank
from regard.errors import Misuse, UnknownName
from regard.evaluation import Causal, Example, MapAgreement, Noise, Row, Sanity, data_set, evaluate_rows
from regard.evaluation.protocols.noise import noisy
from regard.explanation.raw_inputs import Reading
from support.handmade import Attending
from support.records import records

TOKENS = 12


@pytest.fixture(scope="module")
def bert() -> tuple[Any, list[Example]]:
    reader, data = regard.load("zoo/bert-sentiment"), data_set("zoo/bert-sentiment")
    return reader, [data.example(reader, i) for i in range(3)]


def given(count: int = 3) -> tuple[Attending, list[Example]]:
    model, draw = Attending(TOKENS), torch.Generator().manual_seed(1)
    xs = torch.randn(count, 1, TOKENS, Attending.width, generator=draw, dtype=torch.float64)
    return model, [Example(f"e{i}", Reading({"x": x})) for i, x in enumerate(xs)]


def literal(model: Attending, x: torch.Tensor, scores: torch.Tensor, choices: torch.Tensor) -> dict[str, float]:
    """formulas.md section 12, word for word: one forward pass for every choice."""
    c = int(model(x)[0].argmax())
    k = next(k for k in range(1, TOKENS) if math.comb(TOKENS, k) >= 50)
    order = sorted(range(TOKENS), key=lambda i: -float(scores[i]))

    def fall(away: list[int]) -> float:
        keep = torch.tensor([i not in away for i in range(TOKENS)])
        with torch.no_grad():
            return float(model(x)[0, c] - model(x, keep)[0, c])

    own, random = fall(order[:k]), [fall(row.nonzero()[:, 0].tolist()) for row in choices]
    less, far = (
        sum(own > r + side * 1e-12 for r in random) for side in (1, -1)
    )  # the same units twice may differ by rounding
    return {"rank": (less + far) / 2 / len(random), "drop": own, "as_far": len(random) - less, "taken": k}


def test_a_rank_is_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples = given()
    drawn, real = [], causal_rank.subsets_of_size
    monkeypatch.setattr(causal_rank, "subsets_of_size", lambda *a, **k: drawn.append(real(*a, **k)) or drawn[-1])
    rows = records(evaluate_rows(model, examples, ["input_x_gradient", "raw_attention"], [Causal()], batch=3))
    assert [r.error for r in rows] == [""] * 6
    for i, row in enumerate(rows):
        x = examples[i % 3].reading.inputs["x"]
        exp = regard.explain(model, {"x": x}, method=row.title)
        assert len(drawn[i]) == 9
        for name, value in literal(model, x, exp.scores["x"][0], drawn[i]).items():
            assert row.values[name] == pytest.approx(value, abs=1e-9), name
        assert row.values["p_value"] == (1 + row.values["as_far"]) / 10
        assert row.values["units"] == TOKENS
    assert torch.equal(drawn[0], drawn[3])  # both methods are held against the same choices of an input
    assert not torch.equal(drawn[0], drawn[1])


def test_ranks_do_not_depend_on_the_batch_or_on_other_methods(bert: Any) -> None:
    reader, examples = bert[0], bert[1][:2]
    how: dict[str, Any] = {"protocols": [Causal(), MapAgreement(), Noise()]}
    one = evaluate_rows(reader.model, examples, ["gae", "raw_attention"], **how, batch=1)
    for other in (
        evaluate_rows(reader.model, examples, ["gae", "raw_attention"], **how, batch=2),
        evaluate_rows(reader.model, examples, ["gae", "raw_attention"], **how, batch=1, together=True),
    ):
        assert [(r.title, r.metric, r.error) for r in other] == [(r.title, r.metric, r.error) for r in one]
        assert [r.value for r in other] == pytest.approx([r.value for r in one], abs=2e-3, nan_ok=True)
    alone = evaluate_rows(reader.model, examples, ["raw_attention"], [Causal()], batch=1)
    assert [r.value for r in alone] == pytest.approx(
        [r.value for r in one if r.title == "raw_attention" and r.protocol == Causal()], abs=1e-4
    )


def test_methods_that_share_a_call_fail_alone(bert: Any) -> None:
    reader, examples = bert

    def fails(_: Any) -> Any:
        raise Misuse("not this one")

    regard.register("never", fails)
    try:
        rows = evaluate_rows(
            reader.model, examples[:1], ["gae", "never", "random"], [Causal(), Noise()], batch=1, together=True
        )
    finally:
        regard.attribution.table.METHODS.pop("never")
    assert {r.title for r in rows if r.error} == {"never"}
    assert {r.error for r in rows if r.title == "never"} == {"Misuse: not this one"}
    whole = {r.title for r in rows if r.metric == "rank"}
    assert whole == {"gae", "random"}


def test_choices_are_checked_and_named() -> None:
    assert Causal().name == "causal/removal/predicted/share=0.1/random=9"
    assert Causal("true", 0.2, 19, "token", "x").name == "causal/removal/true/share=0.2/random=19/unit=token/stream=x"
    assert Noise(level=0.1).name == "noise/normal/level=0.1/spearman/predicted"
    for made, kind in (
        (lambda: Causal("predict"), UnknownName),
        (lambda: Causal(share=0.9), Misuse),
        (lambda: Causal(random=0), Misuse),
        (lambda: Causal(random=True), Misuse),
        (lambda: Causal(unit="letter"), UnknownName),
        (lambda: Noise(level=0.0), Misuse),
        (lambda: Noise("predict"), UnknownName),
        (lambda: MapAgreement("predict"), UnknownName),
    ):
        with pytest.raises(kind):
            made()


def test_too_few_units_are_an_error_that_says_so() -> None:
    model = Attending(5)
    x = torch.randn(1, 5, Attending.width, dtype=torch.float64)
    (row,) = evaluate_rows(model, [Example("e", Reading({"x": x}))], ["gradient"], [Causal()])
    assert row.error == "Misuse: 5 tokens are too few to test; at least 8 are needed"


def of(rows: list[Row], kind: type, title: str) -> dict[str, float]:
    return {r.metric: r.value for r in rows if isinstance(r.protocol, kind) and r.title == title}


def test_what_noise_weights_and_agreement_say(bert: Any) -> None:
    reader, examples = bert
    before = {k: v.clone() for k, v in reader.model.state_dict().items()}
    asked = [Noise(), MapAgreement(), Sanity("weights", "predicted")]
    rows = evaluate_rows(reader.model, examples[:1], ["raw_attention", "gae", "random"], asked)
    assert all(torch.equal(before[k], v) for k, v in reader.model.state_dict().items())
    assert not any(m._forward_hooks for m in reader.model.modules())
    raw, gae, random = (of(rows, Sanity, t) for t in ("raw_attention", "gae", "random"))
    assert (raw["head_unchanged"], raw["unchanged"]) == (1.0, 0.0)
    assert (gae["head_unchanged"], gae["unchanged"]) == (0.0, 0.0)
    assert (random["head_unchanged"], random["unchanged"]) == (1.0, 1.0)
    assert of(rows, Noise, "gae")["same_answer"] == 1.0
    assert 0.5 < of(rows, Noise, "gae")["similarity"] <= 1.0
    assert of(rows, Noise, "gae")["change"] > 0
    agreed = of(rows, MapAgreement, "random")
    assert set(agreed) == {"with raw_attention", "with gae"}
    assert of(rows, MapAgreement, "raw_attention") == {"first": 1.0}
    one = examples[0].reading
    both = regard.explain(reader.model, one.inputs, method=["raw_attention", "gae"])
    inner = [exp.scores["input_ids"][0][~one.special["input_ids"][0]].numpy() for exp in both]
    assert of(rows, MapAgreement, "gae")["with raw_attention"] == pytest.approx(spearmanr(*inner).statistic, abs=1e-6)


@torch.no_grad()
def test_noise_is_as_large_as_it_says(bert: Any) -> None:
    x = 3 * torch.randn(1, 400, 8, dtype=torch.float64)
    with noisy(torch.nn.Identity(), Example("e", Reading({"x": x})), 0.05, 0) as reading:
        assert float((reading.inputs["x"] - x).std()) == pytest.approx(0.15, rel=0.05)
    reader, examples = bert
    words = reader.model.get_input_embeddings()
    plain = words(examples[0].reading.inputs["input_ids"])
    with noisy(reader.model, examples[0], 0.05, 0):
        changed, again = (words(examples[0].reading.inputs["input_ids"]) for _ in range(2))
        other = words(examples[1].reading.inputs["input_ids"][:, :3])
    assert torch.equal(changed, again)
    assert float((changed - plain).std() / plain.std(correction=0)) == pytest.approx(0.05, rel=0.1)
    assert torch.equal(other, words(examples[1].reading.inputs["input_ids"][:, :3]))


def test_ids_that_nothing_embeds_are_refused() -> None:
    example = Example("e", Reading({"ids": torch.ones(1, 9, dtype=torch.long)}))
    with (
        pytest.raises(Misuse, match=r"no nn\.Embedding of the model reads them"),
        noisy(torch.nn.Identity(), example, 0.1, 0),
    ):
        pass
