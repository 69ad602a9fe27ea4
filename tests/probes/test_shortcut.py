"""How much the attention weights carry alone: models of known answer, a literal twin, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import regard
from regard.errors import Misuse, UnknownName
from support.probe_models import Layers, OneLook, drawn

torch.set_num_threads(1)
BATCH, TOKENS = 4, 5


@pytest.mark.parametrize("values", ["others", "mean"])
def test_a_shortcut_that_was_planted_in_the_attention(values: str) -> None:
    of = torch.tensor([0, 2, 1, 1])
    found = regard.probe.shortcut(OneLook(TOKENS, shortcut=True), drawn(BATCH, TOKENS, 6), of, values=values)
    torch.testing.assert_close(found.weights_share, torch.ones(BATCH, dtype=torch.float64))
    torch.testing.assert_close(found.values_share, torch.zeros(BATCH, dtype=torch.float64))
    assert found.weights_keep is not None
    assert found.weights_keep.tolist() == [1.0] * BATCH
    assert found.overall == pytest.approx((1, 0), abs=1e-9)


@pytest.mark.parametrize("values", ["others", "mean"])
def test_attention_that_knows_nothing(values: str) -> None:
    found = regard.probe.shortcut(OneLook(TOKENS, shortcut=False), drawn(BATCH, TOKENS, 6), values=values)
    torch.testing.assert_close(found.weights_share, torch.zeros(BATCH, dtype=torch.float64))
    torch.testing.assert_close(found.values_share, torch.ones(BATCH, dtype=torch.float64))
    assert found.values_keep is not None
    assert found.values_keep.tolist() == [1.0] * BATCH


def literal(values: str, target: Tensor) -> dict[str, Tensor]:
    """The four runs of `Layers`, written out: a list of maps, another sample's x, means in a loop."""
    model, x = Layers(), drawn(BATCH, TOKENS, 6)
    own: list[tuple[Tensor, Tensor]] = []
    y = model(x, lambda i, A, v: own.append((A, v)) or (A, v)).gather(1, target[:, None])[:, 0]
    out: dict[str, list[Tensor]] = {"weights_only": [], "neither": []}

    def V(i: int, v: Tensor) -> Tensor:
        if values == "others":
            return v
        return torch.stack([torch.stack([own[i][1][c] for c in range(BATCH) if c != b]).mean(0) for b in range(BATCH)])

    for shift in range(1, BATCH):
        other = torch.stack([x[(b + shift) % BATCH] for b in range(BATCH)])
        runs = {
            "weights_only": lambda i, A, v: (own[i][0], V(i, v)),
            "neither": lambda i, A, v: (torch.full_like(A, 1 / A.shape[-1]), V(i, v)),
        }
        for name, twin in runs.items():
            out[name].append(model(other, twin).gather(1, target[:, None])[:, 0])
    alone = model(x, lambda i, A, v: (torch.full_like(A, 1 / A.shape[-1]), v)).gather(1, target[:, None])[:, 0]
    return {"own": y, "values_only": alone} | {k: torch.stack(v).mean(0) for k, v in out.items()}


@pytest.mark.parametrize("values", ["others", "mean"])
def test_the_four_runs_are_those_of_the_model_written_out(values: str) -> None:
    target = torch.tensor([0, 2, 1, 1])
    found = regard.probe.shortcut(Layers(), {"x": drawn(BATCH, TOKENS, 6)}, target, values=values)
    for name, expected in literal(values, target).items():
        torch.testing.assert_close(getattr(found, name), expected.detach(), rtol=1e-9, atol=1e-9)
    assert found.others == BATCH - 1
    assert found.passes == 2 + 2 * found.others


def test_samples_of_one_class_do_not_tell_what_the_values_carry(tmp_path: Path) -> None:
    """Under uniform attention the others' content is then the batch's own, once more: both sums are the same."""
    found = regard.probe.shortcut(Layers(), drawn(BATCH, TOKENS, 6), 1)
    assert float(found.values_only.sum()) == pytest.approx(float(found.neither.sum()), abs=1e-12)
    assert found.alike
    assert not math.isnan(found.overall[0])
    assert math.isnan(found.overall[1])
    assert "give samples of several classes" in found.to_html(tmp_path / "alike.html").read_text("utf-8")
    assert not regard.probe.shortcut(Layers(), drawn(BATCH, TOKENS, 6), torch.tensor([0, 2, 1, 1])).alike


def test_a_result_is_a_table_and_a_page(tmp_path: Path) -> None:
    found = regard.probe.shortcut(Layers(), drawn(BATCH, TOKENS, 6))
    assert str(found).splitlines()[0] == found.target
    assert len(str(found).splitlines()) == BATCH + 3
    text = found.to_html(tmp_path / "shortcut.html").read_text("utf-8")
    assert "The attention weights alone carry" in text
    assert text.count("<tr>") == BATCH + 1


def test_what_is_refused() -> None:
    model, x = Layers(), drawn(2, TOKENS, 6)
    with pytest.raises(Misuse, match="give two or more at a time"):
        regard.probe.shortcut(model, x[:1])
    with pytest.raises(UnknownName, match="kind of values 'means'; did you mean 'mean'"):
        regard.probe.shortcut(model, x, values="means")
    with pytest.raises(Misuse, match="others is a number of samples"):
        regard.probe.shortcut(model, x, others=0)
    with pytest.raises(Misuse, match="samples read one another"):
        regard.probe.shortcut(model, x, lambda out: out[0, :1] + out[1, :1])
