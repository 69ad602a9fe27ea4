"""Which heads do the same: a model with two equal heads, a twin in loops, and where it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import regard
from regard.errors import Misuse
from regard.probes.heads import Heads, LayerHeads
from support.probe_models import Layers, drawn

torch.set_num_threads(1)


def test_two_identical_heads_are_found() -> None:
    model, x = Layers(layers=2, heads=3, twins=(0, 2)), drawn(3, 5, 6)
    found = regard.probe.heads(model, x)
    assert [(p.layer, p.one, p.other) for p in sorted(found.redundant)] == [(0, 0, 2), (1, 0, 2)]
    for pair in found.redundant:
        assert pair.cka == pytest.approx(1, abs=1e-12)
        assert pair.cosine == pytest.approx(1, abs=1e-12)
    assert [layer.heads for layer in found.layers] == [3, 3]
    assert regard.probe.heads(Layers(layers=2, heads=3), x).redundant == []


def literal(O: list[Tensor], A: list[Tensor]) -> tuple[Tensor, Tensor]:
    """CKA by centred Gram matrices between rows, cosines of flattened maps, pair by pair."""
    size, rows = len(O), len(O[0])
    H = torch.eye(rows, dtype=torch.float64) - 1 / rows
    K = [H @ o @ o.T @ H for o in O]
    cka, cosine = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for g in range(size):
        for h in range(size):
            cka[g, h] = (K[g] * K[h]).sum() / (K[g].norm() * K[h].norm())
            cosine[g, h] = A[g].flatten() @ A[h].flatten() / (A[g].norm() * A[h].norm())
    return cka, cosine


def test_the_numbers_are_those_of_their_definitions() -> None:
    model, x = Layers(layers=2, heads=3), drawn(3, 5, 6)
    own: list[tuple[Tensor, Tensor]] = []
    model(x, lambda i, A, v: own.append((A.detach(), v.detach())) or (A, v))
    found = regard.probe.heads(model, x, memory_budget=256)  # a row at a time
    for layer, (A, v) in zip(found.layers, own, strict=True):
        O = [(A @ v)[:, h].flatten(0, 1) for h in range(3)]
        cka, cosine = literal(O, [A[:, h] for h in range(3)])
        torch.testing.assert_close(layer.cka, cka, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(layer.cosine, cosine, rtol=1e-9, atol=1e-9)


def test_a_batch_of_copies_says_what_one_says() -> None:
    model, x = Layers(heads=3), drawn(1, 5, 6)
    one, more = (regard.probe.heads(model, x.repeat(n, 1, 1)) for n in (1, 3))
    for a, b in zip(one.layers, more.layers, strict=True):
        torch.testing.assert_close(a.cka, b.cka)
        torch.testing.assert_close(a.cosine, b.cosine)


def test_inspect_shows_them_and_so_does_a_page(tmp_path: Path) -> None:
    model, x = Layers(layers=2, heads=3, twins=(0, 2)), drawn(3, 5, 6)
    seen = regard.inspect(model, x, heads=True)
    assert seen.heads is not None
    assert "0-2 (1.00, 1.00)" in str(seen)
    assert regard.inspect(model, x).heads is None
    text = seen.heads.to_html(tmp_path / "heads.html").read_text("utf-8")
    assert "2 pairs of heads, in 2 of 2 layers, do nearly the same." in text
    assert text.count('class="matrix"') == 4


def test_calls_of_one_attention_keep_their_own_pairs_apart() -> None:
    """Two chunks of queries make one attention; only the first chunk's heads are alike."""
    one, other = torch.eye(2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    found = Heads([LayerHeads(0, "first", other, other), LayerHeads(0, "second", one, one)])
    lines = str(found).splitlines()
    assert lines[1].endswith("0-1 (1.00, 1.00)")
    assert lines[2].endswith("none")
    assert len(found.redundant) == 1


def test_a_page_of_layers_with_one_head(tmp_path: Path) -> None:
    text = regard.probe.heads(Layers(heads=1), drawn(3, 5, 6)).to_html(tmp_path / "one.html").read_text("utf-8")
    assert "Every layer has one head alone" in text
    assert 'class="matrix"' not in text


def test_a_threshold_that_is_no_share_is_refused() -> None:
    with pytest.raises(Misuse, match="threshold is a number from 0 to 1, not 2"):
        regard.probe.heads(Layers(), drawn(1, 5, 6), threshold=2)
