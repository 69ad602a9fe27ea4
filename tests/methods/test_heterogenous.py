"""Heterogenous attention: literal twins in float64 (block roll-out, ε-derivative, path enumeration, closed form, whole
matrices), rows of one stream that look at another, and many targets of one run."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard import Explanation, Target
from regard.attribution.attention.path_rules import relevance
from regard.attribution.context import Context
from regard.attribution.table import METHODS
from regard.errors import Misuse, UnknownName
from regard.recording import record
from support import families, sweep, twins
from support.families import Case, transformers
from support.tiny import ids, noise, strong

torch.set_num_threads(1)

EXACT = 1e-8
SIGNS = ("positive", "absolute", "signed")


# -- cases ------------------------------------------------------------------------------------------------------------


def lxmert() -> Case:
    """Three cross layers, in which parallel and sequential reading differ."""
    config = transformers.LxmertConfig(
        hidden_size=16, num_attention_heads=2, intermediate_size=24, vocab_size=40, l_layers=1, r_layers=1, x_layers=3,
        num_qa_labels=3, visual_feat_dim=8, max_position_embeddings=16,
    )  # fmt: skip
    case, words, boxes = families.lxmert(), ("input_ids",), ("visual_feats",)
    model = strong(transformers.LxmertForQuestionAnswering(config), 0.6)
    cross = [[(words, boxes), (boxes, words)], [(words, words), (boxes, boxes)]]
    return replace(
        case,
        model=model,
        steps=[[(words, words)], [(boxes, boxes)], *cross * 3],
        embeddings={"input_ids": model.get_input_embeddings()},
    )


def detr() -> Case:
    """One encoder call; two decoder layers of self and cross; the second object query."""
    family = sweep.FAMILIES["detr"]
    cells, queries = ("pixel_values",), ("query_position_embeddings",)
    decoder = [[(queries, queries)], [(queries, cells)]]
    return Case(
        family.build(), dict(family.inputs), family.target, [("pixel_values", 24), ("query_position_embeddings", 3)],
        [[(cells, cells)], *decoder * 2], queries, [1, 1], grid={"pixel_values": (4, 6)}, born=queries,
    )  # fmt: skip


def blip() -> Case:
    """answer ← question ← picture."""
    picture, question, answer = ("class_embedding", "pixel_values"), ("input_ids",), ("decoder_input_ids",)
    inputs = {
        "pixel_values": noise(1, 3, 16, 16), "input_ids": ids(1, 6), "attention_mask": torch.ones(1, 6).long(),
        "labels": torch.tensor([[-100, -100, 9]]), "decoder_input_ids": ids(1, 3, seed=8),
    }  # fmt: skip
    steps = [[(picture, picture)]] * 2
    steps += [[(question, question)], [(question, picture)]] * 2 + [[(answer, answer)], [(answer, question)]] * 2
    joint = [("class_embedding", 1), ("pixel_values", 16), ("input_ids", 6), ("decoder_input_ids", 3)]
    target = lambda out: -out["loss"].reshape(1)  # noqa: E731
    return Case(
        sweep.FAMILIES["blip-vqa"].build(), inputs, target, joint, steps, answer, [1],
        grid={"pixel_values": (4, 4)}, born=("class_embedding",),
    )  # fmt: skip


def visualbert() -> Case:
    family = sweep.FAMILIES["visualbert"]
    both = ("input_ids", "visual_embeds")
    hidden = {"input_ids": family.inputs["attention_mask"] == 0}
    return Case(
        family.build(), dict(family.inputs), family.target, [("input_ids", 6), ("visual_embeds", 4)],
        [[(both, both)]] * 2, both, [0, 0], hidden=hidden,
    )  # fmt: skip


BUILD = {
    "lxmert": lxmert, "detr": detr, "blip": blip, "t5": families.t5, "vilt": families.vilt, "visualbert": visualbert,
}  # fmt: skip
APART = ["lxmert", "detr", "blip", "t5"]
JOINT = ["vilt", "visualbert"]


def doubled(case: Case) -> Case:
    case.model.double()
    case.inputs = {k: v.double() if v.is_floating_point() else v for k, v in case.inputs.items()}
    return case


@functools.cache
def literal(name: str) -> twins.Literal:
    return twins.run(doubled(BUILD[name]()))


def found(case: Case, method: str, **options: Any) -> dict[str, Tensor]:
    """What a method gives, by stream, in float64 (an Explanation's scores are float32)."""
    torch.manual_seed(0)
    recording = record(case.model, case.inputs)
    gradients = recording.gradients(case.target(recording.output))
    readout, made = recording.readout(gradients), METHODS[method].function(**options)
    if callable(made):
        scores = made(Context(recording, gradients, readout))
    else:
        scores = relevance(recording, lambda _rule: gradients, readout, [made])[0]
    scores = recording.settled(scores).masked_fill(recording.hidden(), 0.0)
    return {s.name: scores[:, s.rows] for s in recording.streams if s.shown}


def agree(ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = EXACT) -> None:
    assert set(ours) == set(expected)
    assert max(float(e.abs().max()) for e in expected.values()) > 1e-4
    for name, e in expected.items():
        assert ours[name].dtype == e.dtype == torch.float64
        assert float((ours[name] - e).abs().max()) <= tolerance * max(1.0, float(e.abs().max())), name


def sources(t: twins.Literal) -> list[tuple[str, ...]]:
    """By hand: what a call's sides hold."""
    return list(dict.fromkeys(side for step in t.case.steps for call in step for side in call))


def parts(t: twins.Literal, b: int, step: Any, rule: str) -> tuple[Tensor, Tensor]:
    """I + E of the homogenous calls of a step, and E of its heterogenous ones."""
    own, cross = torch.eye(t.n, dtype=torch.float64), torch.zeros(t.n, t.n, dtype=torch.float64)
    for call, queries, keys in step:
        E = twins.edge(t.A[call][b], t.G[call][b], rule)
        (own if queries == keys else cross)[torch.tensor(queries)[:, None], torch.tensor(keys)] += E
    return own, cross


# -- all hops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", BUILD)
def test_all_hops_are_the_block_roll_out(name: str, sign: str) -> None:
    t = literal(name)
    expected = t.scores(twins.product(t, sign) - t.readout())
    agree(found(t.case, "heterogenous", sign=sign), expected)


def test_parallel_and_sequential_reading_differ_visibly() -> None:
    t = literal("lxmert")
    apart = replace(t, case=replace(t.case, steps=[[call] for step in t.case.steps for call in step]))
    parallel, sequential = (u.scores(twins.product(u, "absolute") - u.readout()) for u in (t, apart))
    difference = max(float((parallel[k] - sequential[k]).abs().max() / parallel[k].abs().max()) for k in parallel)
    assert difference > 0.01


# -- one hop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", ["lxmert", "detr", "t5"])
def test_one_hop_is_the_derivative_of_the_roll_out_with_cross_edges_scaled(name: str, sign: str) -> None:
    """Two sources: own stream ε⁰, the other ε¹."""
    t = literal(name)
    r, own = t.readout(), t.index(t.case.final)
    rows = []
    for b in range(len(t.y)):
        steps = [parts(t, b, step, sign) for step in t.plan()]

        def roll_out(epsilon: Tensor, steps: Any = steps, b: int = b) -> Tensor:
            R = torch.eye(t.n, dtype=torch.float64)
            for within, across in steps:
                R = (within + epsilon * across) @ R
            return r[b] @ R

        value, slope = torch.autograd.functional.jvp(roll_out, *torch.tensor([0.0, 1.0], dtype=torch.float64))
        row = slope.clone()
        row[own] = value[own] - r[b, own]
        rows.append(row)
    agree(found(t.case, "heterogenous", sign=sign, hops="one"), t.scores(torch.stack(rows)))


def paths(t: twins.Literal, b: int, rule: str, returned: bool) -> Tensor:
    """Every path alone, from the read-out back, step by step: stay, or take one call; those that re-enter, or do not."""
    plan, names = t.plan(), t.case.steps
    total = torch.zeros(t.n, dtype=torch.float64)

    def follow(step: int, w: Tensor, at: tuple[str, ...], left: frozenset[Any], again: bool, moved: bool) -> None:
        if step < 0:
            if again == returned and moved:
                total.add_(w)
            return
        follow(step - 1, w, at, left, again, moved)
        for (call, queries, keys), (rows, columns) in zip(plan[step], names[step], strict=True):
            if rows == at:
                there = torch.zeros_like(w)
                there[keys] = w[queries] @ twins.edge(t.A[call][b], t.G[call][b], rule)
                after = left if columns == at else left | {at}
                follow(step - 1, there, columns, after, again or columns in left, True)

    follow(len(plan) - 1, t.readout()[b], t.case.final, frozenset(), False, False)
    return total


@pytest.mark.parametrize("sign", SIGNS)
def test_one_hop_by_enumeration_of_paths(sign: str) -> None:
    """Two changes of source and no return: the picture of BLIP must not vanish."""
    t = literal("blip")
    expected = t.scores(torch.stack([paths(t, b, sign, False) for b in range(len(t.y))]))
    assert float(expected["pixel_values"].abs().max()) > 1e-6
    agree(found(t.case, "heterogenous", sign=sign, hops="one"), expected)


def test_crossed_paths_are_those_that_re_enter_a_source() -> None:
    t = literal("lxmert")
    for hops, returned in (("one", False), ("crossed", True)):
        expected = t.scores(torch.stack([paths(t, b, "absolute", returned) for b in range(len(t.y))]))
        agree(found(t.case, "heterogenous", sign="absolute", hops=hops), expected)
    for name in ("detr", "blip", "t5"):
        crossed = found(literal(name).case, "heterogenous", sign="absolute", hops="crossed")
        assert not any(bool(s.any()) for s in crossed.values()), f"{name} is a one-way structure"


@pytest.mark.parametrize("name", JOINT)
def test_a_joint_sequence_is_one_source(name: str) -> None:
    """One hop, all hops and both forms of gae are the single-stream product; scores stand by stream."""
    t = literal(name)
    expected = t.scores(twins.product(t, "positive") - t.readout())
    for method, options in (
        ("heterogenous", {"hops": "one"}), ("heterogenous", {}), ("gae", {}), ("gae", {"form": "bimodal"}),
    ):  # fmt: skip
        agree(found(t.case, method, **options), expected)
    assert len([e for e in expected.values() if bool(e.any())]) > 1


# -- fusion -----------------------------------------------------------------------------------------------------------


def test_fusion_of_signs_and_of_paths() -> None:
    case = literal("lxmert").case
    each = [found(case, "heterogenous", sign=s, hops=h) for s in SIGNS[:2] for h in ("one", "crossed")]
    for how in ("sum", "mean", "max_normalised"):
        fused = found(case, "heterogenous", sign=SIGNS[:2], hops=("one", "crossed"), fusion=how)
        for stream, scores in fused.items():
            maps = [m[stream] for m in each]
            if how == "max_normalised":
                maps = [m / m.abs().amax(1, keepdim=True).clamp(min=1e-300) for m in maps]
            expected = sum(maps) / (1 if how == "sum" else len(maps))
            torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-14)
    agree(found(case, "heterogenous", hops=("one", "crossed")), found(case, "heterogenous", hops="all"))


def test_a_joint_sequence_is_scaled_as_one() -> None:
    """The class token and its patches share a maximum; a map of zeros stays zero."""
    case = literal("blip").case
    fused = found(case, "heterogenous", hops=("all", "crossed"), fusion="max_normalised")
    picture = torch.cat([fused["class_embedding"], fused["pixel_values"]], 1)
    assert float(picture.max()) == pytest.approx(0.5)
    assert float(fused["class_embedding"].max()) < 0.5
    assert all(bool(s.isfinite().all()) for s in fused.values())


def test_unknown_choices_are_one_sentence() -> None:
    case = families.t5()
    for wrong in ({"sign": "negative"}, {"hops": "two"}, {"sign": ("positive", "abs")}, {"fusion": "product"}):
        with pytest.raises(UnknownName):
            regard.explain(case.model, case.inputs, case.target, "heterogenous", **wrong)
    with pytest.raises(UnknownName, match="bimodal"):
        regard.explain(case.model, case.inputs, case.target, "gae", form="bi-modal")
    with pytest.raises(Misuse, match="one sign"):
        regard.explain(case.model, case.inputs, case.target, "heterogenous", sign=())


def test_signed_maps_say_that_they_are() -> None:
    case = families.t5()
    for sign, signed in (("signed", True), ("positive", False), (("positive", "signed"), True)):
        assert regard.explain(case.model, case.inputs, case.target, "heterogenous", sign=sign).signed == signed


# -- gae in the paper's form ------------------------------------------------------------------------------------------


def bar(rest: Tensor) -> Tensor:
    """I + rownorm(R − I) of R − I, row by row; a zero row contributes identity."""
    out = torch.eye(len(rest), dtype=torch.float64)
    for i, row in enumerate(rest):
        if float(row.abs().max()) > 0:
            out[i] += row / row.sum()
    return out


def public_bar(rest: Tensor) -> Tensor:
    """The same as public code has it."""
    return torch.eye(len(rest), dtype=torch.float64) + rest / rest.sum(-1, keepdim=True)


def bimodal(t: twins.Literal, b: int, normalise: Any = bar) -> dict[Any, Any]:
    """R[s][q], for q = s less I, by whole matrices; the calls of a step read the same old state.

    (I is kept apart, since a row of 1e-20 would be lost in it, and normalising makes any row as long as the others.)
    """
    size = {s: len(t.index(s)) for s in sources(t)}
    R = {s: {q: torch.zeros(size[s], size[q], dtype=torch.float64) for q in size} for s in size}
    call = 0
    for step in t.case.steps:
        old = {s: dict(of) for s, of in R.items()}
        for s, q in step:
            E = twins.edge(t.A[call][b], t.G[call][b], "positive")
            for c in size:
                if s != q and c == q:
                    R[s][c] = R[s][c] + normalise(old[s][s]).T @ E @ normalise(old[q][q])
                else:
                    R[s][c] = R[s][c] + E @ (old[q][c] + (torch.eye(size[q]) if c == q else 0))
            call += 1
    return R


def bimodal_scores(t: twins.Literal) -> dict[str, Tensor]:
    r, rows = t.readout(), torch.zeros(len(t.y), t.n, dtype=torch.float64)
    own = t.index(t.case.final)
    for b in range(len(t.y)):
        for q, matrix in bimodal(t, b)[t.case.final].items():
            rows[b, t.index(q)] = r[b, own] @ matrix
    return t.scores(rows)


@pytest.mark.parametrize("name", APART)
def test_gae_s_own_form_by_whole_matrices(name: str) -> None:
    t = literal(name)
    agree(found(t.case, "gae", form="bimodal"), bimodal_scores(t))
    walk = found(t.case, "gae", form="walk")
    agree(walk, found(t.case, "heterogenous"))
    assert any(float((walk[k] - e).abs().max()) > 1e-4 for k, e in bimodal_scores(t).items())


@pytest.mark.parametrize(
    ("name", "form"), [("lxmert", "bimodal"), ("detr", "bimodal"), ("t5", "bimodal"), ("vilt", "")]
)
def test_gae_takes_its_authors_form_where_exactly_two_sources_are_read(name: str, form: str) -> None:
    """The receipt says which form it is; one source needs no word."""
    case = (BUILD | families.CASES)[name]()
    found = regard.explain(case.model, case.inputs, case.target, "gae")
    same = regard.explain(case.model, case.inputs, case.target, "gae", form=form or "walk")
    assert all(torch.equal(found.scores[k], same.scores[k]) for k in found.scores)
    said = [n for n in found.receipt.notes if "form=" in n]
    assert len(said) == bool(form)
    assert all(f'form="{form}"' in n for n in said)


def test_three_sources_are_one_joint_roll_out() -> None:
    class Three(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            for other in (y, z, y):
                x = x + (x @ other.mT / 4).softmax(-1) @ other
            return x[:, 0]

    given = {name: families.noise(2, 4, 6, seed=i) for i, name in enumerate("xyz")}
    found = regard.explain(Three().eval(), given, 1, "gae")
    walk = regard.explain(Three().eval(), given, 1, "gae", form="walk")
    assert all(torch.equal(found.scores[k], walk.scores[k]) for k in "yz")
    assert any("3 sources are read" in n for n in found.receipt.notes)


def test_gae_s_own_form_on_detr_by_its_closed_form() -> None:
    """Row t of R_qi = v + u R_ii − u, with w_l = e_tᵀ Π_{m>l}(I + E_qq,m), v = Σ_l w_l R̄_qq,lᵀ E_qi,l."""
    t = literal("detr")
    rows = []
    for b in range(len(t.y)):
        E = [twins.edge(A[b], G[b], "positive") for A, G in zip(t.A, t.G, strict=True)]
        queries = torch.eye(3, dtype=torch.float64)
        selves, crosses = (E[1], E[3]), (E[2], E[4])
        v, moved = torch.zeros(24, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)  # R_qq − I
        for layer, (own, cross) in enumerate(zip(selves, crosses, strict=True)):
            moved = moved + own @ (queries + moved)
            w = queries[t.case.row[b]]
            for later in reversed(selves[layer + 1 :]):
                w = w @ (queries + later)
            v = v + w @ bar(moved).T @ cross
        sums = E[0].sum(1)  # R_ii 1 − 1
        u = torch.where(sums != 0, v / sums, 0.0)
        rows.append(v + u @ E[0])  # u R_ii − u
    agree({"pixel_values": found(t.case, "gae", form="bimodal")["pixel_values"]}, {"pixel_values": torch.stack(rows)})


@pytest.mark.parametrize(("name", "silent"), [("detr", "decoder.layers.0.self_attn.v_proj"), ("lxmert", "layer.0")])
def test_a_zero_row_leaves_finite_correct_maps(name: str, silent: str) -> None:
    """Values that are all zero make E = 0 in the first self-attention: R − I has zero rows, which break the public code."""
    case = doubled(BUILD[name]())
    values = [m for n, m in case.model.named_modules() if silent in n and n.endswith(("v_proj", "value"))]
    assert values
    with torch.no_grad():
        for module in values if name == "detr" else values[:2]:
            module.weight.zero_()
            module.bias.zero_()
    t = twins.run(case)
    broken = bimodal(t, 0, public_bar)[case.final]
    assert any(not bool(matrix.isfinite().all()) for matrix in broken.values())
    expected = bimodal_scores(t)
    assert all(bool(e.isfinite().all()) for e in expected.values())
    other = next(n for n, _ in case.joint if n not in case.final)
    assert float(expected[other].abs().max()) > 1e-4
    agree(found(case, "gae", form="bimodal"), expected)


@pytest.mark.parametrize("name", ["swin", "bert", "nougat"])
def test_gae_s_own_form_where_tokens_merge(name: str) -> None:
    """One source: equal to the walk, through token maps too. A picture that merges is only looked at: that is defined."""
    family = sweep.FAMILIES[name]
    model = family.build()
    walk, own = (regard.explain(model, dict(family.inputs), family.target, "gae", form=f) for f in ("walk", "bimodal"))
    for stream, scores in walk.scores.items():
        if name != "nougat" or stream == "decoder_input_ids":
            torch.testing.assert_close(own.scores[stream], scores, rtol=1e-4, atol=1e-7)
    assert all(bool(s.isfinite().all()) for s in own.scores.values())
    assert own.receipt.attribution_sum.shape == (families.BATCH,)


# -- who looks at whom ------------------------------------------------------------------------------------------------


def whole(t: twins.Literal, rule: str) -> list[Tensor]:
    """R − I of the joint roll-out."""
    out = []
    for b in range(len(t.y)):
        R = torch.eye(t.n, dtype=torch.float64)
        for step in t.plan():
            R = twins.block(t, b, step, rule, False) @ R
        out.append(R - torch.eye(t.n, dtype=torch.float64))
    return out


@pytest.mark.parametrize("name", ["lxmert", "detr", "vilt"])
def test_between_is_a_block_of_the_roll_out(name: str) -> None:
    t = literal(name)
    torch.manual_seed(0)
    exp = regard.explain(t.case.model, t.case.inputs, t.case.target, "heterogenous", sign="signed")
    R = whole(t, "signed")
    for query, key in itertools.product([n for n, _ in t.case.joint], repeat=2):
        if (name, query) == ("vilt", "pixel_values") or (name, key) == ("vilt", "pixel_values"):
            continue  # in an order of the model's own
        ours = exp.between(query, key)
        expected = torch.stack([M[t.index((query,))][:, t.index((key,))] for M in R])
        for names, axis in ((query, 1), (key, 2)):
            if names in t.case.hidden:
                keep = ~t.case.hidden[names]
                expected = expected * (keep[:, :, None] if axis == 1 else keep[:, None])
        assert ours.shape == expected.shape
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-7)


def test_between_for_chosen_rows_saved_and_loaded(tmp_path) -> None:
    case = families.lxmert()
    exp = regard.explain(case.model, case.inputs, case.target, "gae", form="walk")
    passes = exp.receipt.passes
    some = exp.between("input_ids", "visual_feats", rows=[2, 0])
    assert some.shape == (2, 2, 4)
    assert exp.receipt.passes == passes + 2
    torch.testing.assert_close(some[:, 1], exp.scores["visual_feats"])  # the target reads the first word
    assert torch.equal(exp.between("input_ids", "visual_feats", rows=0), some[:, 1:])
    assert torch.equal(exp.between("input_ids", "input_ids", [-5]), exp.between("input_ids", "input_ids", 0))
    assert exp.receipt.passes == passes + 2
    loaded = Explanation.load(exp.save(tmp_path / "e.safetensors"))
    assert torch.equal(loaded.between("input_ids", "visual_feats", rows=[2, 0]), some)
    with pytest.raises(Misuse, match=r"call between\(...\) first"):
        loaded.between("input_ids", "visual_feats")
    with pytest.raises(Misuse, match="before this explanation was saved"):
        loaded.between("visual_feats", "input_ids")
    everything = exp.between("input_ids", "visual_feats")
    torch.testing.assert_close(everything[:, [2, 0]], some)
    assert not bool(everything[case.hidden["input_ids"]].any())


def test_between_says_what_it_cannot_do() -> None:
    case = families.t5()
    exp = regard.explain(case.model, case.inputs, case.target, form="walk")
    with pytest.raises(UnknownName):
        exp.between("input_id", "decoder_input_ids")
    with pytest.raises(Misuse, match="out of range"):
        exp.between("decoder_input_ids", "input_ids", rows=[3])
    with pytest.raises(Misuse, match="no rows"):
        exp.between("decoder_input_ids", "input_ids", rows=[])
    for method, options in (("input_x_gradient", {}), ("gae", {"form": "bimodal"})):
        other = regard.explain(case.model, case.inputs, case.target, method, **options)
        with pytest.raises(Misuse, match="follows no paths"):
            other.between("decoder_input_ids", "input_ids")


def test_between_of_roll_out_one_hop_and_fused_maps() -> None:
    """The row of the token that is read is the method's own map, whatever the method."""
    case = families.lxmert()
    for method, options in (
        ("rollout", {}), ("heterogenous", {"hops": "one"}), ("corrected_attention", {"sign": "absolute"}),
        ("heterogenous", {"sign": ("positive", "absolute"), "hops": ("one", "crossed"), "fusion": "max_normalised"}),
    ):  # fmt: skip
        exp = regard.explain(case.model, case.inputs, case.target, method, **options)
        for stream, scores in exp.scores.items():
            torch.testing.assert_close(exp.between("input_ids", stream, rows=0)[:, 0], scores)


def test_between_in_pieces_is_the_same() -> None:
    """A small memory budget walks with fewer rows at a time."""
    case = families.lxmert()
    usual, small = (
        regard.explain(case.model, case.inputs, case.target, memory_budget=budget).between("input_ids", "visual_feats")
        for budget in (None, 1)
    )
    torch.testing.assert_close(usual, small)


# -- many targets of one run ------------------------------------------------------------------------------------------


def forwards(model: torch.nn.Module) -> tuple[list[int], Any]:
    seen: list[int] = []
    return seen, model.register_forward_hook(lambda *_: seen.append(1))


@pytest.mark.parametrize(
    ("name", "stream", "shape", "targets"),
    [
        ("detr", "pixel_values", (2, 24), [Target.detection(q, 1) for q in range(3)]),
        ("conditional-detr", "pixel_values", (2, 24), [Target.detection(q) for q in range(3)]),
        ("whisper", "input_features", (2, 6), [Target.next_token(7, position=p) for p in range(5)]),
        ("trocr", "pixel_values", (2, 16), [Target.next_token(7, position=p) for p in range(4)]),
    ],
)
def test_one_forward_serves_all_objects_words_and_characters(
    name: str, stream: str, shape: tuple[int, ...], targets: list[Target]
) -> None:
    """Found objects (DETR), words of what was heard (over time frames), characters of what was read (over the picture)."""
    family = sweep.FAMILIES[name]
    model = family.build()
    seen, handle = forwards(model)
    try:
        maps = regard.explain(model, dict(family.inputs), targets, ["heterogenous", "gae"], hops="one")
    finally:
        handle.remove()
    assert len(seen) == 1
    several = maps[: len(targets)]
    for exp, target in zip(several, targets, strict=True):
        alone = regard.explain(model, dict(family.inputs), target, "heterogenous", hops="one")
        torch.testing.assert_close(exp.scores[stream], alone.scores[stream])
        assert exp.scores[stream].shape == shape
        assert bool(exp.scores[stream].any())
    for one, other in itertools.combinations(several, 2):
        assert not torch.allclose(one.scores[stream], other.scores[stream], rtol=1e-3, atol=0)
    if name == "trocr":
        assert several[0].image_map().shape == (2, 4, 4)
