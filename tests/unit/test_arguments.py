"""Arguments of `explain` that are not of their kind: taken where they are plain, else refused in one sentence."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import regard
from regard import Baseline
from regard.attribution.table import METHODS
from regard.errors import Misuse
from regard.explanation.causal_test import HowTested
from regard.kinds import fits, kinds_of
from support.tiny import noise, strong


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        return self.fc(self.body(x)[:, 0])


MODEL, X = strong(Model()), noise(2, 4, 16)


def explain(method="integrated_gradients", **given):
    return regard.explain(MODEL, X, 1, method, **given)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (torch.full_like(X, 0.5), Baseline.of(torch.full_like(X, 0.5))),
        (X[0].numpy() * 0.5, Baseline.of(X[0] * 0.5)),
        (0, Baseline.zero()),
        (0.0, Baseline.zero()),
        ("zero", Baseline.zero()),
        ("mean", Baseline.mean()),
        ({"input": torch.full_like(X, 0.5)}, {"input": Baseline.of(torch.full_like(X, 0.5))}),
        ({"input": None}, Baseline.zero()),
    ],
)
def test_plain_values_are_baselines(given, same):
    found, expected = explain(baseline=given), explain(baseline=same)
    assert torch.equal(found.scores["input"], expected.scores["input"])


BAD = [
    {"baseline": "x"},
    {"baseline": 1.0},
    {"baseline": True},
    {"baseline": object()},
    {"baseline": [X]},
    {"baseline": {1: Baseline.zero()}},
    {"baseline": {"input": "x"}},
    {"baseline": "mask"},
    {"baseline": torch.zeros(3, 3)},
    {"baseline": torch.zeros_like(X, device="meta")},
    {"method": None},
    {"method": [None]},
    {"method": 3},
    {"measure": None},
    {"measure": 1},
    {"seed": None, "method": "random"},
    {"seed": 1.5},
    {"seed": -1},
    {"seed": 2**70},
    {"memory_budget": "9" * 400 + "MB"},
    {"memory_budget": float("inf")},
    {"memory_budget": float("nan")},
    {"memory_budget": [1]},
    {"readout": [1, 2]},
    {"readout": True},
    {"readout": 1.5},
    {"streams": {1: 2}},
    {"streams": [1]},
]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"methods": ["gae"]}, "there is no argument methods=: it is called method=, and takes a list, too"),
        ({"sites": "input"}, "there is no argument sites=: it is called site="),
        ({"colour": 1, "method": "cp_lrp"}, "unknown option 'colour': 'cp_lrp' takes no option"),
        ({"method": "all"}, "method='all' is for the command line; in Python give a list of names"),
        ({"method": ["gae", "all"]}, "in Python give a list of names"),
    ],
)
def test_words_that_people_try_are_answered(given, said):
    with pytest.raises(Misuse, match=re.escape(said)):
        explain(**given)


@pytest.mark.parametrize("given", BAD, ids=lambda g: " ".join(f"{k}={v!r}"[:24] for k, v in g.items()))
def test_what_is_not_of_its_kind_is_refused_in_one_sentence(given):
    with pytest.raises(Misuse) as refused:
        explain(**given)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "make",
    [
        lambda: Baseline.blur("x"),
        lambda: Baseline.blur(0),
        lambda: Baseline.blur(float("inf")),
        lambda: Baseline.noise(1.5),
        lambda: Baseline.mask_token("a"),
        lambda: Baseline.pad_token(None),
        lambda: Baseline.of(3),
        lambda: Baseline.of(None),
    ],
)
def test_baselines_check_what_they_are_made_of(make):
    with pytest.raises(Misuse):
        make()


def test_numbers_of_numpy_are_numbers():
    assert Baseline.noise(np.int64(3)) == Baseline.noise(3)
    assert torch.equal(explain("random", seed=np.int64(3)).scores["input"], explain("random", seed=3).scores["input"])


# -- options of methods --------------------------------------------------------------------------------------------------


OPTIONS = [(row, option) for row in METHODS.values() for option in row.options]
WRONG = ["x", b"x", None, True, 1.5, -1, 0, 10**9, 2**70, float("nan"), {}, [], [None], object(), torch.ones(2), X]


@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_the_kind_of_every_option_is_known(row):
    assert set(row.options) <= set(kinds_of(row.function))


@pytest.mark.parametrize(("row", "option"), OPTIONS, ids=lambda part: getattr(part, "name", part))
def test_options_of_another_kind_are_refused_before_the_model_runs(row, option):
    """What the signature does not allow is refused at once, and in a sentence."""
    ran = []
    handle = MODEL.register_forward_pre_hook(lambda *_: ran.append(1))
    kind = kinds_of(row.function)[option]
    try:
        for value in WRONG:
            if option == "guide" and isinstance(value, torch.Tensor):  # whether it fits the tokens, a run alone tells
                continue
            if not fits(value, kind):
                with pytest.raises(Misuse) as refused:
                    explain(row.name, **{option: value})
                assert "\n" not in str(refused.value)
                assert len(str(refused.value)) < 250
    finally:
        handle.remove()
    assert not ran


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("integrated_gradients", {"steps": 10**9}),
        ("integrated_gradients", {"tolerance": 0.1, "most": 10**9}),
        ("revised_ig", {"steps": 20_000}),
        ("bti_head", {"steps": 10**9}),
        ("smoothgrad", {"samples": 10**9}),
        ("lime", {"samples": 10**9}),
        ("shap_kernel", {"samples": 10**9}),
        ("attention_mask", {"steps": 10**9}),
        ("interaction", {"pictures": 10**9}),
        ("interaction", {"texts": 10**9}),
    ],
)
def test_counts_are_bounded(method, option):
    with pytest.raises(Misuse, match=r"is a whole number from 1 to \d+.*, not [12]"):
        explain(method, **option)


@pytest.mark.parametrize("three", [np.int64(3), torch.tensor(3)])
def test_numbers_of_numpy_and_torch_are_options(three):
    assert explain(steps=three).options == {"steps": 3}


def test_a_registered_method_is_checked_by_what_its_signature_says(request):
    def mine(context, power: "Nowhere" = 1, count: int = 2):
        return context.recording.zeros() + 1

    def typed(context, count: int = 2):
        return context.recording.zeros() + count

    for name, function in (("mine", mine), ("typed", typed)):
        regard.register(name, function)
        request.addfinalizer(lambda name=name: METHODS.pop(name))
    assert explain("mine", power="as it likes").method == "mine"
    with pytest.raises(Misuse, match="count is a whole number, not 'two'"):
        explain("typed", count="two")


@pytest.mark.parametrize("size", [(10**9, 10**9), (0, 4), (4,), "ab", (4.5, 4), (True, 4), None])
def test_a_map_is_no_larger_than_can_be_drawn(size):
    from regard.explanation.places import size_of

    with pytest.raises(Misuse, match=r"a size is \(height, width\) in pixels, at most 268435456 of them; not "):
        size_of(size)


@pytest.mark.parametrize("random", [10**9, True, 3])
def test_a_test_has_no_more_random_choices_than_can_be_run(random):
    with pytest.raises(Misuse, match="random is a whole number from 19 to 100000, not"):
        HowTested.checked(random=random)
