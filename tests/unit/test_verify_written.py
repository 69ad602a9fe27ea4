"""Every model that the other tests write by hand passes through `regard.verify`: nothing is contradicted, all calls are tested.

A few of each kind run in `make test`, all of them in `make test-all`. What cannot be tested of a model is written down here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
import regard
from support import families, followed, heads, samples, seeing
from support import grammar_models as models
from support import lost_trails as lost
from support import odd_inputs as odd
from support import row_rules as rules
from support import spellings as spelled
from support.grammar_words import ONCE_WRONG, alone
from support.tiny import ids, noise, strong

Made = tuple[Any, Any, dict[str, Any]]
"""A model (or a reader), its inputs, and how it is called."""

WRITTEN: dict[str, Callable[[], Made]] = {}
"""By the file and a name."""

OTHERS = "maps go to the tokens of its values, which are others"
UNTESTED: dict[str, str] = {
    "attention, values turned": OTHERS,
    "attention, values of another": OTHERS,
    "grammar, values shifted": OTHERS,
    "grammar, values parameter keys": OTHERS,
    "grammar, values other": OTHERS,
    "grammar, of y, values other": OTHERS,
    "grammar, of y, values shifted": OTHERS,
    "grammar, of y, values parameter keys": OTHERS,
    "grammar, once wrong 02": OTHERS,
    "grammar, once wrong 10": "no gradient comes through its rows",
    "grammar, once wrong 13": OTHERS,
    "grammar, once wrong 27": OTHERS,
}
"""What is said of models of which something cannot be tested: by the first words of the name."""


def add(name: str, make: Callable[[], Any], given: Callable[[], Any], **how: Any) -> None:
    assert name not in WRITTEN, name
    WRITTEN[name] = lambda: (make(), given(), how)


# -- spellings.py ------------------------------------------------------------------------------------------------

X = (2, spelled.TOKENS, spelled.WIDTH)
for spelling in [spelled.Whole, *spelled.SPELLINGS, spelled.OnlyTheFirstRow, spelled.WrittenOver,
                 spelled.Chosen, spelled.ReadsAll]:  # fmt: skip
    add(f"attention, {spelling.__name__}", lambda cls=spelling: strong(cls()), lambda: noise(*X))
for how in spelled.ADDED:
    add(f"attention, two keys, {how}", lambda how=how: spelled.TwoKeys(how).eval(),
        lambda: {n: noise(*X, seed=i) / 2 for i, n in enumerate("xyz")})  # fmt: skip
for how in ("einsum", "bmm", "edges", "halves"):
    add(f"attention, relative by {how}", lambda how=how: strong(spelled.Relative(how)), lambda: noise(*X))
add("attention, values turned", lambda: spelled.Apart(lambda v: v.flip(1)).eval(), lambda: noise(*X))
add("attention, values of another", lambda: spelled.Apart().eval(), lambda: {"x": noise(*X), "y": noise(*X, seed=8)})

# -- row_rules.py ----------------------------------------------------------------------------------------------------

for attended in (True, False):
    when = "after attention" if attended else "at first"
    for name, step in (rules.MOVED | rules.WRITTEN | rules.MERGED | rules.MATRICES).items():
        add(f"rules, {name}, {when}", lambda step=step, attended=attended: rules.built(step, attended=attended),
            lambda: noise(2, rules.TOKENS, rules.WIDTH).double())  # fmt: skip
for name, (step, _) in rules.MIXED.items():
    add(f"rules, {name}", lambda step=step: rules.built(step), lambda: noise(2, rules.TOKENS, rules.WIDTH).double())
for attend in (rules.dot, rules.dot_heads, rules.product_scores, rules.keys_first, rules.product_heads,
               rules.additive, rules.additive_by_vector, rules.distances, rules.distances_by_product, rules.quiet,
               rules.with_a_sink):  # fmt: skip
    add(f"rules, attention by {attend.__name__}", lambda attend=attend: strong(rules.Spelled(attend)),
        lambda: noise(2, rules.TOKENS, rules.WIDTH))  # fmt: skip

# -- followed.py, samples.py, heads.py, lost_trails.py -----------------------------------------

for name, (before, _) in followed.FOLLOWED.items():
    add(f"provenance, {name}", lambda before=before: strong(followed.Model(before)), lambda: noise(2, 5, 8))
add("provenance, outlook", lambda: strong(followed.Model(followed.outlook)), lambda: noise(2, 5, 8))
add("provenance, packed pictures", lambda: strong(followed.Pictures()), lambda: {
    "ids": torch.tensor([[0, 0, 7, 0, 0, 8], [9, 3, 0, 0, 4, 5]]), "patches": noise(12, 6)})  # fmt: skip
add(
    "provenance, joined",
    lambda: strong(followed.Joined()),
    lambda: {"a": noise(2, 3, 8), "b": noise(2, 4, 8, seed=3)},
)
for name, model in samples.APART.items():
    add(f"independence, {name}", lambda model=model: strong(model), lambda: noise(3, 5, 16))
for name, head in samples.MIXED.items():
    add(f"independence, {name}", lambda head=head: strong(samples.Encoder(head)), lambda: noise(3, 5, 16))
add("independence, routed", lambda: strong(samples.Routed()), lambda: noise(3, 5, 16))
for cls in (heads.Encoder, heads.Keyed):
    add(f"heads, {cls.__name__}", lambda cls=cls: strong(cls(4)), lambda: noise(2, 5, 16))
for name, (step, _, said, _) in lost.LOST.items():
    add(f"streams, {name}", lambda step=step: strong(lost.Layers(step)), lambda: noise(2, 5, 8), streams=said)
add("streams, signal", lambda: strong(lost.Signal()), lambda: noise(2, 8, 8), streams={"input": {"axis": 2}})
add("streams, codebooks", lambda: strong(lost.Codebooks()), lambda: {"codes": ids(2, 3, 5)},
    streams={"codes": {"axis": -1}})  # fmt: skip
add("streams, latents", lambda: strong(lost.Latents(True)), lambda: noise(2, 5, 8))

# -- odd_inputs.py ---------------------------------------------------------------------------------------------------


def of(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """With weights of a seed."""

    def made() -> nn.Module:
        torch.manual_seed(0)
        return make().eval()

    return made


W = odd.W
for i, (make, size, _) in enumerate(odd.NO_MULTIPLE):
    add(f"inputs, no multiple {i}", of(make), lambda size=size: {"picture": noise(2, 3, *size)})
for i, (hold, _, _) in enumerate(odd.HELD):
    add(f"inputs, held {i}", of(odd.Two), lambda hold=hold: hold(noise(2, 5, W), noise(2, 7, W, seed=4)))
add("inputs, features", of(odd.Features), lambda: {
    "input_ids": ids(2, 6), "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])})  # fmt: skip
add("inputs, sequence first", of(odd.SequenceFirst), lambda: {"x": noise(6, 2, W)}, batch_axis=1)
add("inputs, words first", of(odd.WordsFirst), lambda: {"x": ids(3, 3)}, batch_axis=1)
add("inputs, one bag", of(odd.SequenceFirst), lambda: {"x": noise(6, W)}, batch_axis=None)
add(
    "inputs, a cache",
    of(odd.Remembering),
    lambda: {"ids": ids(1, 3), "past": [(noise(1, 5, W), noise(1, 5, W, seed=2))]},
)
add("inputs, mirrored", of(lambda: odd.Mirrored(4)), lambda: {"picture": noise(2, 3, 16, 20)})
add("inputs, two sizes", of(odd.TwoSizes), lambda: {"picture": noise(1, 3, 24, 24)})
add("inputs, two scales", of(odd.Shrunk), lambda: {"picture": noise(1, 3, 24, 24)})
for name, (make, x, grid) in zip(("bytes", "counts"), odd.NUMBERS, strict=True):
    add(f"inputs, {name}", of(make), lambda x=x, grid=grid: {"picture" if grid else "counts": x})
add("inputs, yes and no", of(lambda: odd.Drawing(4, 1)), lambda: {"picture": noise(2, 1, 16, 16) > 0})
for how in ("index", "one hot", "embedding"):
    add(f"inputs, ids by {how}", of(lambda how=how: odd.Table(how)), lambda: {"ids": ids(2, 5, high=30)})
add("inputs, prompts", of(odd.Match), lambda: {"picture": noise(1, 3, 16, 16), "ids": ids(3, 5)})
for spread in (True, False):
    add(f"inputs, questions {spread}", of(lambda spread=spread: odd.Asked(spread)),
        lambda: {"x": noise(3, 5, W), "questions": noise(1, 2, W, seed=5)})  # fmt: skip
for i, (make, shape, _, _) in enumerate(odd.GRIDS):
    add(f"inputs, grid {i}", of(make), lambda shape=shape: {"picture": noise(2, *shape)})
add("inputs, packed", of(odd.Blocks), lambda: {
    "input_ids": torch.tensor([[7] + [5] * 32 + [8]]), "pixel_values": noise(32, 12),
    "image_grid_thw": torch.tensor([(1, 4, 6), (1, 2, 4)])})  # fmt: skip

# -- seeing.py, families.py, grammar.py --------------------------------------------------------------------------

for language in ("opt", "t5"):
    add(f"seeing, blip2 with {language}", lambda language=language: seeing.blip2(language),
        lambda: (seeing.PICTURE, seeing.PROMPT))  # fmt: skip
for kind in ("SmolVLM", "Idefics3"):
    add(f"seeing, {kind}", lambda kind=kind: seeing.tiled(kind), lambda: (seeing.PICTURE, "what ?"))
for name, case in families.CASES.items():
    WRITTEN[f"families, {name}"] = lambda case=case: ((c := case()).model, c.inputs, {})
for name, net in (alone() | {f"once wrong {i:02}": n for i, n in enumerate(ONCE_WRONG)}).items():
    add(f"grammar, {name}", lambda net=net: models.build(net), lambda net=net: models.inputs(net))

SAMPLE = (
    "attention, HeadsAndChunks",
    "attention, two keys, a + b",
    "attention, two keys, stacked and summed",
    "attention, relative by edges",
    "rules, scatter_add, after attention",
    "rules, attention by product_heads",
    "rules, a permutation, matmul, at first",
    "rules, complex, at first",
    "provenance, writes in place",
    "inputs, held 1",
    "inputs, mirrored",
    "inputs, bytes",
    "independence, folded",
    "grammar, rows joined",
    "families, fours_einsum",
)


def proved(name: str) -> regard.Verification:
    model, given, how = WRITTEN[name]()
    return regard.verify(model, given, **how) if isinstance(model, nn.Module) else model.verify(given)


def names() -> Iterator[Any]:
    assert set(SAMPLE) <= set(WRITTEN), set(SAMPLE) - set(WRITTEN)
    for name in WRITTEN:
        yield pytest.param(name, marks=[] if name in SAMPLE else [pytest.mark.long])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*names()])
def test_nothing_is_contradicted_and_all_is_tested(name: str) -> None:
    proof = proved(name)
    assert proof.contradictions == []
    assert proof.claims > 0
    known = [why for words, why in UNTESTED.items() if name.startswith(words)]
    assert [u for u in proof.untested if not any(why in u for why in known)] == []
    assert bool(proof.untested) == bool(known)
