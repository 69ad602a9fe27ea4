"""`regard.verify`: no false alarm on any family, what it finds, what it says it cannot test, and that it leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

pytest.importorskip("transformers")
import regard
from regard.errors import Contradicted, ModelError
from regard.recording.tokens import operations
from regard.recording.tokens.elementwise import element_wise
from support.checks import condition, rows
from support.sweep import FAMILIES
from support.tiny import noise, strong

SAMPLE = ("bert", "deberta-v2", "gpt2", "mistral", "qwen3-moe", "t5", "bart-labels", "vit", "dinov2-registers", "swin",
          "timesformer", "whisper", "clip", "lxmert", "vilt", "detr", "llava", "qwen2-vl", "einsum", "talking-heads",
          "attention-sinks", "slot-attention")  # fmt: skip
"""Of every kind one, for `make test`."""


def verified(name: str) -> regard.Verification:
    family = FAMILIES[name]
    torch.manual_seed(7)
    return regard.verify(family.build(), dict(family.inputs))


UNTESTED = {
    "beit-masked": "no gradient comes through",  # patches that are hidden
    "clipseg": "the model cuts it out of the graph",  # its towers run without gradients, and the decoder reads no others
    "groupvit-vision": "the order of its weights' columns",  # divided by their sums after a softmax over the groups
    "talking-heads": "the order of its weights' columns",
    "torch-attention": "its keys (rows of key",
}
"""Families of which something cannot be tested, and why; of all others everything is."""


def held(name: str) -> None:
    """Nothing is contradicted, everything is tested."""
    proof = verified(name)
    assert proof.contradictions == []
    assert proof.claims > 0
    assert bool(proof.untested) == (name in UNTESTED), proof.untested
    assert any(UNTESTED.get(name, "") in u for u in proof.untested) == (name in UNTESTED)


@pytest.mark.parametrize("name", SAMPLE)
def test_no_false_alarm(name: str) -> None:
    held(name)


@pytest.mark.long
@pytest.mark.parametrize("name", [p for p in rows(FAMILIES) if p.values[0] not in SAMPLE])
def test_no_false_alarm_on_any_family(name: str) -> None:
    held(name)


class Biased(nn.Module):
    """Another input is added to the scores: distances of nodes, looked up (Graphormer), or features of pairs (AlphaFold)."""

    def __init__(self, turned: bool = False) -> None:
        super().__init__()
        self.turned, self.near = turned, nn.Embedding(6, 2)
        self.pairs, self.qkv, self.head = nn.Linear(3, 2), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor, pair: Tensor) -> Tensor:
        bias = (self.pairs if pair.is_floating_point() else self.near)(pair).permute(0, 3, 1, 2)
        for _ in range(2):
            q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
            scores = q @ k.mT
            A = ((scores.flip(-1) if self.turned else scores) + bias).softmax(-1)
            x = x + (A @ v).transpose(1, 2).flatten(2)
        return self.head(x[:, 0])


PAIRS = {"distances": torch.arange(50).view(2, 5, 5) % 6, "features": noise(2, 5, 5, 3, seed=4)}


@pytest.mark.parametrize("name", PAIRS)
def test_another_input_that_biases_scores_is_no_contradiction(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is wrong with the weights' columns is found still."""
    given = {"x": noise(2, 5, 8), "pair": PAIRS[name]}
    proof = regard.verify(strong(Biased()), given)
    assert (proof.contradictions, proof.untested) == ([], [])
    monkeypatch.setitem(operations.RULES, "flip", lambda trail, name, args, kwargs, out: [trail.tag(args[0])])
    wrong = regard.verify(strong(Biased(turned=True)), given).contradictions
    assert [c.side for c in wrong] == ["rows or columns of the weights"] * 2


# -- what it finds and says -------------------------------------------------------------------------------------------


class Own(nn.Module):
    """Two layers; what a test does to the tokens first is a function."""

    def __init__(
        self,
        first: Callable[[Tensor], Tensor] = lambda x: x,
        cut: bool = False,
        kernel: Callable[..., Tensor] = F.scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        self.first, self.cut, self.kernel = first, cut, kernel
        self.token, self.qkv = nn.Parameter(torch.zeros(1, 1, 8)), nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.first(x)], 1)
        for _ in range(2):
            q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.cut):
                x = x + self.kernel(q, k, v).transpose(1, 2).flatten(2)
        return x[:, 0]


def own(first: Callable[[Tensor], Tensor] = lambda x: x, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return strong(Own(first, **more))


X = noise(2, 5, 8)


def test_an_unknown_mixing_is_a_contradiction_and_cannot_be_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that takes cumulated sums for element by element: row j holds something of all earlier tokens."""
    monkeypatch.setitem(operations.RULES, "cumsum", element_wise)
    model = own(lambda x: x + x.cumsum(1))
    proof = regard.verify(model, X)
    assert not proof
    assert not proof.ok
    found = proof.contradictions[0]
    assert (found.call, found.side, found.module) == (0, "values", "")
    assert found.share > 0.1
    assert str(proof).splitlines()[0].startswith("WRONG")
    assert "said to be input[" in str(proof)
    with pytest.raises(Contradicted, match=r"call 0, values: said to be input\[\d\] of sample \d, but rests on input"):
        regard.explain(model, X, lambda y: y[:, 0], verify=True)
    assert Contradicted.exit_code == 1


def test_what_is_known_to_be_mixed_is_a_number() -> None:
    """A causal convolution of two taps, one for all features: one part in three of each row is its neighbour's."""

    def mixed(x: Tensor) -> Tensor:
        taps = torch.tensor([0.5, 1.0]).repeat(8, 1, 1)
        return F.conv1d(F.pad(x.transpose(1, 2), (1, 0)), taps, groups=8).transpose(1, 2)

    proof = regard.verify(own(lambda x: mixed(x.relu())), X.abs())
    assert proof.ok
    (found,) = proof.mixed
    assert (found.stream, found.by) == ("input", "conv1d")
    assert 0.15 < found.share < 0.5


def test_what_passes_no_gradient_is_untested() -> None:
    proof = regard.verify(own(cut=True), X)
    assert proof.ok
    assert any("cuts it out of the graph" in u for u in proof.untested)
    assert proof.verdict == "nothing could be tested"
    assert str(proof).startswith("untested  nothing could be tested")
    assert proof.notes[0] == "untested: nothing could be tested"


class Enclosed(torch.autograd.Function):
    """Fused attention, run inside a function with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    def backward(ctx: Any, dO: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            q, k, v = (t.detach().requires_grad_() for t in ctx.saved_tensors)
            return torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), dO)


@pytest.mark.parametrize(("kernel", "says"), [
    (Enclosed.apply, r"calls 0, 1 ran inside a torch\.autograd\.Function of the model's own"),
    (partial(checkpoint, F.scaled_dot_product_attention, use_reentrant=False), "switch gradient checkpointing off"),
], ids=["a function of its own", "checkpointed"])  # fmt: skip
def test_a_cut_that_gradients_pass_by_is_no_contradiction(kernel: Any, says: str) -> None:
    model = own(kernel=kernel)
    if kernel == Enclosed.apply:
        assert regard.explain(model, X, lambda y: y[:, 0], "gae").receipt.notes == []
    with pytest.raises(ModelError, match=says):
        regard.verify(model, X)


def test_one_sample_s_gradient_stays_in_that_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(operations.RULES, "flip", lambda trail, name, args, kwargs, out: [trail.tag(args[0])])
    proof = regard.verify(own(lambda x: x.flip(0)), X)
    claimed, found = (
        s.rpartition(" of sample ") for s in (proof.contradictions[0].claimed, proof.contradictions[0].found)
    )
    assert found[0] == f"rests on {claimed[0]}"
    assert {claimed[2], found[2]} == {"0", "1"}


class Shared(nn.Module):
    """Every sample of one input looks at the same other input."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(8, 8), nn.Linear(8, 16)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        k, v = self.kv(b).expand(len(a), -1, -1).chunk(2, -1)
        return F.scaled_dot_product_attention(self.q(a), k, v).mean((1, 2))


class TwoProducts(nn.Module):
    """One map multiplies values and relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.r = nn.Linear(8, 24), nn.Parameter(torch.randn(5, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            q, k, v = self.qkv(x).chunk(3, -1)
            a = (q @ k.mT).softmax(-1)
            x = x + a @ v + torch.einsum("bij,ijd->bid", a, self.r)
        return x.mean((1, 2))


class OwnKeys(nn.Module):
    """Values are the keys, and the queries: nothing is projected."""

    def __init__(self, written: bool) -> None:
        super().__init__()
        self.written = written

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            o = (x @ x.mT).softmax(-1) @ x if self.written else F.scaled_dot_product_attention(x, x, x)
            x = x + o
        return x.mean((1, 2))


class Bytes(nn.Module):
    """A picture in whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.then = nn.Conv2d(3, 8, 4, 4), Own()

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.cut(x.float() / 255).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Shared, {"a": noise(3, 4, 8), "b": noise(1, 5, 8)}),
        (TwoProducts, X),
        (lambda: OwnKeys(True), X / 2),
        (lambda: OwnKeys(False), X / 2),
        (Bytes, torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12).to(torch.uint8)),
    ],
    ids=["shared", "two products", "own keys, written", "own keys", "bytes"],
)
def test_no_false_alarm_on_inputs_and_maps_of_other_kinds(model: Callable[[], nn.Module], inputs: Any) -> None:
    torch.manual_seed(0)
    proof = regard.verify(strong(model()), inputs)
    assert proof.contradictions == []
    assert proof.untested == []
    assert proof.claims > 0


def test_what_the_user_says_is_tested_too() -> None:
    """Tokens said the wrong way round."""
    model = own(lambda x: x.cumsum(1).diff(dim=1, prepend=torch.zeros_like(x[:, :1])))
    right = regard.verify(model, X, streams={"input": {"call": [0, 1], "side": "both", "at": [1, 2, 3, 4, 5]}})
    assert right.contradictions == []
    wrong = regard.verify(model, X, streams={"input": {"call": [0, 1], "side": "both", "at": [5, 4, 3, 2, 1]}})
    assert any(c.call == 0 for c in wrong.contradictions)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions(dtype: torch.dtype) -> None:
    assert regard.verify(own(lambda x: x.flip(1)).to(dtype), X.to(dtype)).contradictions == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_finds_as_well(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(operations.RULES, "flip", lambda trail, name, args, kwargs, out: [trail.tag(args[0])])
    assert not regard.verify(own(lambda x: x.flip(1)).to(dtype), X.to(dtype)).ok


def test_one_sample_alone_and_padding_and_samples_along_another_axis() -> None:
    family = FAMILIES["bert"]
    alone = {k: v[:1] for k, v in family.inputs.items()}
    assert regard.verify(family.build(), alone).ok
    assert 0 in family.inputs["attention_mask"]

    class TokensFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = own()

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x.transpose(0, 1))

    assert regard.verify(TokensFirst().eval(), X.transpose(0, 1).contiguous(), batch_axis=1).contradictions == []


def test_it_leaves_no_trace() -> None:
    for name in ("vilt", "llama"):  # ViLT draws the order of its patches
        family = FAMILIES[name]
        model = family.build()
        inputs = {k: v.clone() for k, v in family.inputs.items()}
        with torch.no_grad():
            model(**inputs)
        before, rng = condition(model), torch.get_rng_state()
        assert regard.verify(model, inputs).ok
        assert condition(model) == before
        assert torch.equal(torch.get_rng_state(), rng)
        assert all(torch.equal(v, family.inputs[k]) and v.grad is None for k, v in inputs.items())


def test_explain_proves_first_and_says_so() -> None:
    model = own(lambda x: x.flip(1))
    plain, proved = (regard.explain(model, X, lambda y: y[:, 0], verify=v) for v in (False, True))
    assert torch.equal(plain.scores["input"], proved.scores["input"])
    (note,) = [n for n in proved.receipt.notes if n.startswith("verified: ")]
    assert note == f"verified: {regard.verify(model, X).verdict}"
    assert not any(n.startswith("verified") for n in plain.receipt.notes)
    assert proved.receipt.passes == plain.receipt.passes + regard.verify(model, X).passes


def test_on_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("typer")
    from regard.cli.commands import main

    ask = ["inspect", "A fine film.", "--model", "zoo/bert-sentiment", "--verify"]
    with pytest.raises(SystemExit) as ended:
        main(ask)
    assert not ended.value.code
    assert "\nverified " in capsys.readouterr().out
    linear = operations.RULES["linear"]
    shifted = lambda *a: [t and t.moved(lambda i: i.roll(1, 1)) for t in linear(*a)]  # noqa: E731
    monkeypatch.setitem(operations.RULES, "linear", shifted)
    with pytest.raises(SystemExit) as ended:
        main(ask)
    assert ended.value.code == 1
    assert "\nWRONG " in capsys.readouterr().out
