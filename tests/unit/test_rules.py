"""The rules of operations: what keeps rows is a positive list, what moves or merges them is held to autograd's own map.

A step of a model takes tokens (batch, n, width) to rows (batch, m, width). Its literal map P (batch, m, n) is read off the
Jacobian; what the trail claims is what relevance on each row goes back to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.errors import TrailLost
from regard.recording import record
from regard.recording.tokens.elementwise import ELEMENT_WISE
from regard.recording.tokens.tags import STRIDE
from support.row_rules import (
    EACH,
    LAST,
    MATRICES,
    MERGED,
    MIXED,
    MOVED,
    TOKENS,
    WIDTH,
    WRITTEN,
    Attend,
    Spelled,
    Step,
    Steps,
    additive,
    additive_by_vector,
    built,
    changed,
    claimed,
    distances,
    distances_by_product,
    dot,
    dot_heads,
    held,
    keys_first,
    literal,
    product_heads,
    product_scores,
    quiet,
    wide,
    with_a_sink,
)
from support.tiny import noise, strong

# -- a positive list --------------------------------------------------------------------------------------------------

ELSEWHERE = {
    "cuda",
    "xpu",
    "mps",
    "pin_memory",
    "share_memory",
    "_neg_view",
    "_conj",
    "lift_fresh",
    "requires_grad",
    "__deepcopy__",
}


def spellings(name: str) -> Iterator[Callable[..., Any]]:
    rooms = [torch.special] if name.startswith("special_") else [torch.Tensor, torch, F, torch.ops.aten]
    found = [getattr(room, name.removeprefix("special_"), None) for room in rooms]
    found = [f for f in found if f is not None] or [getattr(torch.Tensor, name + "_", None)]
    yield from (f if callable(f) else f.__get__ for f in found if callable(f) or hasattr(f, "__get__"))


def others(x: Tensor) -> Iterator[tuple[Any, ...]]:
    y = x.roll(1, 0)
    yield from [(), (y,), (0.5,), (2,), (y, y), (0.1, 0.9), (torch.float32,), (x != x[1, 2], 1.0), (torch.ones(1),)]
    yield from [(torch.tensor([0.2, 2.0]),), (2, y)]


def ran(f: Callable[..., Any], *operands: Any) -> Tensor | None:
    torch.manual_seed(1)
    try:
        out = f(*operands)
    except (TypeError, RuntimeError, ValueError, NotImplementedError):
        return None
    return out.clone().to(torch.complex64) if isinstance(out, Tensor) and out.shape == operands[0].shape else None


def elsewhere(f: Callable[..., Any], x: Tensor) -> list[float]:
    """How much a result changes at other places when the operand changes at one; nothing for what cannot be called so."""
    changed, found = x.clone(), []
    changed[1, 2] = ~x[1, 2] if x.dtype == torch.bool else x[1, 2] * 2
    for more in others(x):
        a, b = ran(f, x.clone(), *more), ran(f, changed.clone(), *more)
        if a is not None and b is not None:
            change = (torch.view_as_real(a - b).nan_to_num(0, 0, 0).abs().sum(-1)).clone()
            change[1, 2] = 0
            found.append(float(change.max()))
            break
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.long
def test_each_place_of_an_element_wise_result_is_made_of_that_place_alone() -> None:
    """Another number at one place of the operand: the result is another at this place at the most."""
    torch.manual_seed(0)
    real = torch.rand(3, 4) * 0.8 + 0.1
    operands = [real, real * 5 + 1.1, real < 0.5, torch.randint(1, 5, (3, 4)), torch.randn(3, 4, dtype=torch.complex64)]
    names = {n.rstrip("_") if not n.startswith("__") else n for n in ELEMENT_WISE} - ELSEWHERE
    changes = {n: [c for x in operands for f in spellings(n) for c in elsewhere(f, x)] for n in names}
    assert {n for n, c in changes.items() if not c} == set()
    assert {n for n, c in changes.items() if max(c) > 1e-6} == set()


@pytest.mark.parametrize("f", [torch.fliplr, lambda x: x.cumsum(0), lambda x: x.softmax(0), lambda x: x.roll(1, 0)])
def test_that_test_can_fail(f: Callable[..., Any]) -> None:
    assert max(elsewhere(f, torch.rand(3, 4))) > 1e-3


# -- what is written, and what is joined ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("name", [*MOVED, *WRITTEN, *MERGED])
def test_what_moves_is_written_or_merged_is_followed(name: str, attended: bool) -> None:
    held((MOVED | WRITTEN | MERGED)[name], attended)


@pytest.mark.parametrize("name", ["scatter_reduce, of each sample's own", "scatter_add", "fliplr", "where"])
def test_rollout_and_gae_through_a_step_are_products_of_whole_matrices(name: str) -> None:
    """With P the step's literal map: rollout = the read row of Ā₂ P Ā₁; gae = that of (I + E₂) P (I + E₁), less P's own."""
    model, x = built((MOVED | WRITTEN | MERGED)[name]), noise(2, TOKENS, WIDTH).double()
    target = model(x)[:, 1].sum()
    G = torch.autograd.grad(target, model.maps)
    maps, before = [A.detach() for A in model.maps], model.given.detach()
    P = literal(model, before)
    eyes = [torch.eye(A.shape[-1], dtype=A.dtype) for A in maps]
    whole = [(A + eye) / 2 for A, eye in zip(maps, eyes, strict=True)]
    torch.testing.assert_close(
        regard.explain(model, x, 1, "rollout").scores["input"].double(), (whole[1] @ P @ whole[0])[:, 0]
    )
    E = [(A * g).clamp(min=0) for A, g in zip(maps, G, strict=True)]
    expected = (eyes[1] + E[1]) @ P @ (eyes[0] + E[0]) - P
    torch.testing.assert_close(regard.explain(model, x, 1, "gae").scores["input"].double(), expected[:, 0])


def gone(x: Tensor) -> Tensor:
    """Rows whose trail is lost."""
    return torch.linalg.solve(torch.eye(TOKENS, dtype=x.dtype).flip(0), x)


# -- matrices on the token axis ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("name", MATRICES)
def test_a_constant_matrix_on_the_token_axis_is_followed(name: str, attended: bool) -> None:
    step = MATRICES[name]
    model, x = built(step, attended=attended), noise(2, TOKENS, WIDTH).double()
    recording = record(model, x)
    expected = literal(model, x)
    expected = expected / expected.abs().sum(-1, keepdim=True).clamp(min=1e-9)
    torch.testing.assert_close(claimed(recording, len(recording.calls) - 1), expected)
    assert recording.mixers == []


def test_rows_chosen_by_the_input_are_followed_as_chosen_and_it_is_said() -> None:
    def routed(m: Steps, x: Tensor) -> Tensor:
        scores = m.qkv[0](x)[..., :TOKENS]
        hard = F.one_hot(scores.argmax(-1), TOKENS).double()
        return (hard - scores.softmax(-1).detach() + scores.softmax(-1)) @ x

    model, x = built(routed), noise(2, TOKENS, WIDTH).double()
    recording = record(model, x)
    chosen = recording.calls[1].keys % STRIDE - 1
    hard = model.qkv[0](model.given)[..., :TOKENS].argmax(-1)
    assert torch.equal(chosen, hard)
    assert any("chosen by the input" in d for d in recording.doubts())


@pytest.mark.parametrize("name", MIXED)
def test_a_learned_matrix_on_the_token_axis_is_told(name: str) -> None:
    step, operation = MIXED[name]
    model, x = built(step), noise(2, TOKENS, WIDTH).double()
    exp = regard.explain(model, x, 1, "rollout")
    assert f"tokens are mixed outside attention ({operation}), which maps do not follow" in exp.receipt.notes
    call = record(model, x).calls[1]
    assert call.keys.unique().numel() == call.keys.numel(), "each mixture is a row of its own"


def test_a_learned_matrix_that_no_attention_reads_is_the_heads_affair() -> None:
    class Pooled(Steps):
        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.learned @ self.attention(0, x))[:, 0])

    assert regard.explain(strong(Pooled(lambda m, x: x)).eval(), noise(2, TOKENS, WIDTH), 1).receipt.notes == []


def test_linformer_is_explained_and_told() -> None:
    class Linformer(Steps):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv[0](x).chunk(3, -1)
            x = x + (q @ (self.learned @ k).mT / 2).softmax(-1) @ (self.learned @ v)
            return self.head(x)[:, 0]

    exp = regard.explain(strong(Linformer(lambda m, x: x)).eval(), noise(2, TOKENS, WIDTH), 1, "raw_attention")
    assert "tokens are mixed outside attention (matmul), which maps do not follow" in exp.receipt.notes
    torch.testing.assert_close(exp.scores["input"], torch.full((2, TOKENS), 1 / TOKENS))


def test_one_hot_words_times_a_matrix_are_tokens() -> None:
    class Words(Steps):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(self.words(F.one_hot(ids, 50).float()))

    model = Words(lambda m, x: x.flip(1))
    model.words = nn.Linear(50, WIDTH)
    ids = torch.randint(0, 50, (2, TOKENS))
    exp = regard.explain(strong(model).eval(), {"ids": ids}, 1)
    assert exp.scores["ids"].shape == (2, TOKENS)
    assert bool((exp.scores["ids"] != 0).any())


LOST: dict[str, tuple[Step, str]] = {
    "linalg_solve": (lambda m, x: torch.linalg.solve(torch.eye(TOKENS, dtype=x.dtype).flip(0), x), "linalg_solve"),
    "fft": (lambda m, x: torch.fft.fft(x, dim=1).real, "fft_fft"),
    "cross": (lambda m, x: torch.linalg.cross(x.mT[..., :3], x.mT[..., 3:]).repeat(1, 1, 2).mT, "linalg_cross"),
    "trapezoid": (lambda m, x: torch.cumulative_trapezoid(x, dim=1), "cumulative_trapezoid"),
    "lost rows, written": (changed(lambda y, x: y.__setitem__((slice(None), slice(3, 5)), gone(x)[:, :2])), "linalg_solve"),
    "lost rows, put": (lambda m, x: x.index_put((torch.tensor([[0], [1]]), EACH), gone(x)[:, 1:3]), "linalg_solve"),
    "lost rows, scattered": (lambda m, x: x.scatter(1, wide(EACH, x), gone(x)[:, 1:3]), "linalg_solve"),
    "lost rows, copied": (changed(lambda y, x: y.copy_(gone(x))), "linalg_solve"),
    "lost rows, copied into a view": (changed(lambda y, x: y[:, 2:4].copy_(gone(x)[:, 4:])), "linalg_solve"),
    "lost rows, chosen": (lambda m, x: torch.where((LAST > 2)[:, None], x, gone(x)), "linalg_solve"),
    "lost rows, merged": (lambda m, x: MERGED["index_add"](m, gone(x)), "linalg_solve"),
    "written into lost rows": (lambda m, x: gone(x).scatter(1, wide(EACH, x), x[:, 1:3]), "linalg_solve"),
    "fold": (lambda m, x: F.fold(F.unfold(x[:, None], (3, 1)), (TOKENS, WIDTH), (3, 1))[:, 0], "fold"),
}  # fmt: skip


@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("name", LOST)
def test_what_is_in_no_table_ends_the_trail_by_name(name: str, attended: bool) -> None:
    step, says = LOST[name]
    model, x = built(step, attended=attended), noise(2, TOKENS, WIDTH).double()
    with pytest.raises(TrailLost, match=says):
        regard.explain(model, x, 1)


def test_what_ended_the_trail_and_comes_back_beside_the_rows_it_was_made_of_is_told() -> None:
    model = built(lambda m, x: x + torch.linalg.solve(torch.eye(TOKENS, dtype=x.dtype) * 2, x))
    notes = regard.explain(model, noise(2, TOKENS, WIDTH).double(), 1).receipt.notes
    assert [n for n in notes if "mixed outside attention (linalg_solve)" in n]


# -- attention by broadcasting, and weights of other makes ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["gae", "rollout"])
@pytest.mark.parametrize(
    ("one", "other"),
    [(product_scores, dot), (keys_first, dot), (product_heads, dot_heads), (additive, additive_by_vector),
     (distances, distances_by_product)],
)  # fmt: skip
def test_attention_by_broadcasting_is_attention(one: Attend, other: Attend, method: str) -> None:
    torch.manual_seed(3)
    model, x = strong(Spelled(one)).double().eval(), noise(2, TOKENS, WIDTH).double()
    found = regard.explain(model, x, 1, method)
    model.attend = other
    torch.testing.assert_close(found.scores["input"], regard.explain(model, x, 1, method).scores["input"])
    assert found.receipt.notes == []


def test_additive_attention_is_held_to_autograd() -> None:
    """gae of one layer is (A ⊙ ∂y/∂A)₊ of the read row."""
    kept: list[Tensor] = []

    def attend(m: Spelled, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.append(m.score(torch.tanh(q[:, :, None] + k[:, None]))[..., 0].softmax(-1))
        return (kept[-1][..., None] * v[:, None]).sum(2)

    model, x = strong(Spelled(attend)).double().eval(), noise(2, TOKENS, WIDTH).double()
    model.qkv = model.qkv[:1].eval()
    (G,) = torch.autograd.grad(model(x)[:, 1].sum(), kept)
    expected = (kept[0] * G).clamp(min=0)[:, 0].detach()
    torch.testing.assert_close(regard.explain(model, x, 1).scores["input"].double(), expected)


@pytest.mark.parametrize("method", ["gae", "rollout"])
def test_quiet_attention_is_a_softmax_with_a_sink(method: str) -> None:
    torch.manual_seed(3)
    model, x = strong(Spelled(quiet)).double().eval(), noise(2, TOKENS, WIDTH).double()
    found = regard.explain(model, x, 1, method).scores["input"]
    model.attend = with_a_sink
    torch.testing.assert_close(found, regard.explain(model, x, 1, method).scores["input"])


@pytest.mark.parametrize("streams", [None, {"tokens": 0}, {"input": 1}])
@pytest.mark.parametrize("made", ["sigmoid", "relu"])
def test_weights_that_each_key_has_by_itself_are_refused_by_name(made: str, streams: Any) -> None:
    model = strong(Spelled(lambda m, q, k, v: getattr(q @ k.mT, made)() @ v)).eval()
    with pytest.raises(TrailLost, match=f"call 0 .* no softmax .*`{made}`") as refusal:
        regard.explain(model, noise(2, TOKENS, WIDTH), 1, streams=streams)
    assert "0 keys" not in str(refusal.value)
    assert "streams=" not in str(refusal.value)
