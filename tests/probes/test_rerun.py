"""The model under another attention: what a literal forward gives, what changes nothing, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard.errors import Misuse, UnknownName
from support.probe_models import REGIONS, Joint, Layers, Pointing, drawn, joint, pointed

torch.set_num_threads(1)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-9)


def test_the_models_own_attention_changes_nothing() -> None:
    model, given = Pointing(2.0), pointed()
    A = model.maps(**given)[:, 0]
    for attention in ({("input_ids", "regions"): A}, lambda A, call: A):
        found = regard.probe.rerun(model, given, 0, attention=attention)
        same(found.after, found.before)
        same(found.change, torch.zeros(2, dtype=torch.float64))


def test_all_weight_on_one_region_and_none_on_any_other() -> None:
    model, given = Pointing(2.0), pointed()
    value = given["regions"][..., REGIONS:]
    first = regard.probe.rerun(model, given, 0, attention={"regions": [1.0, 0, 0, 0]})
    same(first.after, value[:, 0, 0])
    same(first.before, model(**given)[:, 0])
    each = regard.probe.rerun(model, given, 1, attention={"regions": torch.eye(REGIONS)[[1, 3]]})
    same(each.after, torch.stack([value[0, 1, 1], value[1, 3, 1]]))
    even = regard.probe.rerun(model, given, 2, attention="uniform", calls=0)
    same(even.after, value[..., 2].mean(1))
    assert even.calls == (0,)
    rows = torch.zeros(3, REGIONS)
    rows[1, 2] = 5.0  # in any unit; rows of zeros stay
    one = regard.probe.rerun(model, given, 0, attention={("input_ids", "regions"): rows})
    A = model.maps(**given)[:, 0].clone()
    A[:, 1] = torch.tensor([0.0, 0, 1, 0])
    same(one.after, (A @ value)[..., 0].mean(1))


def test_a_prior_shares_out_only_what_its_stream_has() -> None:
    """Among a class token and x side by side, the class token's share of every row stays."""
    model, x = Layers(layers=2), drawn(2, 3, 6)
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)

    def twin(i: int, A: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([A[..., :1], (1 - A[..., :1]) * p], -1), v

    same(regard.probe.rerun(model, {"x": x}, 1, attention={"x": p}).after, model(x, twin)[:, 1])

    def second(i: int, A: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return twin(i, A, v) if i else (A, v)

    found = regard.probe.rerun(model, {"x": x}, 1, attention={"x": p}, calls=[1])
    same(found.after, model(x, second)[:, 1])
    assert found.calls == (1,)


def test_padding_gets_nothing_and_the_rows_of_one_stream_alone_are_changed() -> None:
    model, given = Joint(), joint()
    p = torch.tensor([0.5, 0.1, 0.4], dtype=torch.float64)

    def twin(i: int, A: Tensor) -> Tensor:
        out = A.clone()
        for b, n in ((0, 3), (1, 2)):
            q = p[:n] / p[:n].sum()
            out[b, :, 4:, 1 : 1 + n] = A[b, :, 4:, 1 : 1 + n].sum(-1, keepdim=True) * q
        return out

    found = regard.probe.rerun(model, given, 0, attention={("feats", "input_ids"): p.expand(4, 3)})
    same(found.after, model(**given, twin=twin)[:, 0])
    assert found.predicted_before is not None
    assert found.predicted_after is not None
    same(found.predicted_after, model(**given, twin=twin).argmax(1))


def test_sparse_weights_are_uniform_over_all_keys() -> None:
    """The zeros of sparsemax tell of the content: attention that knows nothing has none."""
    entmax = pytest.importorskip("entmax")

    class Sparse(torch.nn.Module):
        def forward(self, x: Tensor, even: bool = False) -> Tensor:
            A = entmax.sparsemax(3 * x @ x.mT, dim=-1)
            assert bool((A == 0).any())
            return ((torch.full_like(A, 1 / A.shape[-1]) if even else A) @ x).mean(1)

    model, x = Sparse().eval(), drawn(2, 5, 3)
    same(regard.probe.rerun(model, x, 0, attention="uniform").after, model(x, even=True)[:, 0])
    found = regard.probe.shortcut(model, x, 0)
    same(found.values_only, model(x, even=True)[:, 0])
    same(found.neither, model(x.flip(0), even=True)[:, 0])


def test_a_page_and_a_table(tmp_path: Path) -> None:
    found = regard.probe.rerun(Pointing(2.0), pointed(), attention={"regions": [1.0, 0, 0, 0]})
    text = found.to_html(tmp_path / "rerun.html").read_text("utf-8")
    assert "a prior on regions" in text
    assert len(str(found).splitlines()) == 4


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"attention": {"region": [1.0, 0, 0, 0]}}, UnknownName, "unknown stream 'region'"),
        ({"attention": {"regions": [1.0, 0]}}, Misuse, r"has shape \(2,\); give \(4,\), or \(2, 4\)"),
        ({"attention": {"regions": [1.0, 0, 0, -1]}}, Misuse, "negative or no numbers"),
        ({"attention": {"regions": "all"}}, Misuse, "is no tensor of numbers"),
        ({"attention": {("a", "b", "c"): [1.0]}}, Misuse, "a prior is on a stream, or on"),
        ({"attention": {"input_ids": [1.0, 0, 0]}}, Misuse, "no attention call has rows and keys of 'input_ids'"),
        ({"attention": {}}, Misuse, "the prior is empty"),
        ({"attention": "even"}, Misuse, 'attention is "uniform", a prior'),
        ({"attention": lambda A, call: A[..., :1]}, Misuse, "attention= gave"),
        ({"attention": "uniform", "calls": [3]}, Misuse, "attention call 3 is not there: the run has 1"),
        ({"attention": "uniform", "calls": []}, Misuse, "no attention call is named"),
    ],
)
def test_what_is_refused(how: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        regard.probe.rerun(Pointing(2.0), pointed(), **how)


def test_a_call_named_beside_a_prior_must_have_its_keys() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Pointing(2.0)

        def forward(self, input_ids: Tensor, regions: Tensor) -> Tensor:
            v = regions[..., REGIONS:]
            mixed = torch.softmax(v @ v.mT, -1) @ v
            made: Tensor = self.inner(input_ids, torch.cat([regions[..., :REGIONS], mixed], -1))
            return made

    prior = {("input_ids", "regions"): torch.ones(3, REGIONS)}
    assert regard.probe.rerun(Two().eval(), pointed(), 0, attention=prior).calls == (1,)
    with pytest.raises(Misuse, match=r"attention call 0 \(.*\) has no rows and keys of the prior"):
        regard.probe.rerun(Two().eval(), pointed(), 0, attention=prior, calls=[0])
