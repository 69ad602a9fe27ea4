"""Arguments of `explain` that are not of their kind: taken where they are plain, else refused in one sentence."""

import numpy as np
import pytest
import torch
from torch import nn

import regard
from regard import Baseline
from regard.errors import Misuse
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
