"""Whose rows a call reads, in models written to mislead: a right map or a named refusal, never a wrong map."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.errors import TrailLost
from regard.recording import record
from regard.recording.tokens.tags import STRIDE
from support import families
from support.followed import FOLLOWED, WIDTH, Joined, Model, Pictures, inputs, outlook


def keys(before: Callable[[Model, Tensor], Tensor]) -> tuple[list[list[str]], regard.Explanation]:
    """The streams and tokens that the call's keys are, per sample, and a map."""
    model = families.strong(Model(before))
    x = families.noise(2, 5, WIDTH)
    recording = record(model, x)
    (call,) = recording.calls
    names = {0: "nobody"} | {s.first + i: f"{s.name}[{i}]" for s in recording.streams for i in range(s.count)}
    assert (call.keys // STRIDE - 1 == torch.arange(2)[:, None]).logical_or(call.keys == 0).all()
    return [[names[int(i)] for i in row] for row in call.keys % STRIDE], regard.explain(model, x, 1, measure="full")


@pytest.mark.parametrize("name", FOLLOWED)
def test_rows_are_followed(name: str) -> None:
    before, expected = FOLLOWED[name]
    found, exp = keys(before)
    assert found == [expected, expected]
    assert float(sum(s.abs().sum() for s in exp.scores.values())) > 0


def lost_softmax(m: Model, x: Tensor) -> Tensor:
    q = x.cumsum(1)
    return x + torch.softmax(q @ q.transpose(1, 2), -1) @ x


REFUSED = {
    "neighbours added": (lambda m, x: m.qkv(x)[:, 1:, :WIDTH] + m.qkv(x)[:, :-1, :WIDTH], "different tokens"),
    "resampled, then a position": (
        lambda m, x: F.interpolate(m.qkv(x)[..., :WIDTH].transpose(1, 2), size=7).transpose(1, 2) + m.pos[:, :7],
        "interpolate",
    ),
    "a softmax of scores that were lost": (lost_softmax, "cumsum"),
    "a read-out that is a constant": (lambda m, x: torch.cat([m.constant.expand(len(x), -1, -1), x], 1), "no input"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name: str) -> None:
    before, says = REFUSED[name]
    model, x = families.strong(Model(before)), families.noise(2, 5, WIDTH)
    with pytest.raises(TrailLost, match=says):
        regard.explain(model, x, 1)
    assert regard.inspect(model, x).calls


def test_a_constant_that_is_read_can_be_named() -> None:
    model = families.strong(Model(REFUSED["a read-out that is a constant"][0], row=1))
    exp = regard.explain(model, families.noise(2, 5, WIDTH), 1, readout=1)
    assert exp.scores["input"].shape == (2, 5)


def test_neighbours_joined_along_the_width_share_what_is_theirs() -> None:
    """MobileBERT's embeddings: row t is made of tokens t-1, t, t+1; a row's relevance goes to the three in equal parts."""

    def trigram(m: Model, x: Tensor) -> Tensor:
        x = m.qkv(x)[..., :WIDTH]
        return m.wide(torch.cat([F.pad(x[:, 1:], [0, 0, 0, 1]), x, F.pad(x[:, :-1], [0, 0, 1, 0])], 2))

    model, x = families.strong(Model(trigram)), families.noise(2, 5, WIDTH)
    recording = record(model, x)
    gradients = recording.gradients(1)
    call = gradients.calls[0]
    _, A, G = call.rows(torch.tensor([0]))
    row = (A * G).clamp(min=0).mean(1)[:, 0]
    expected = torch.zeros(2, 5)
    for t in range(5):
        for near in (t - 1, t, t + 1):
            if 0 <= near < 5:
                expected[:, near] += row[:, t] / 3
    exp = regard.explain(model, x, 1)
    torch.testing.assert_close(exp.scores["input"], expected)


def test_parts_out_of_the_graph_are_told() -> None:
    def cut(m: Model, x: Tensor) -> Tensor:
        with torch.no_grad():
            q, k, v = m.qkv(x).chunk(3, -1)
            y = F.scaled_dot_product_attention(q, k, v)
        return x + y

    model, x = families.strong(Model(cut)), families.noise(2, 5, WIDTH)
    assert "calls 0 are cut out of the graph" in regard.explain(model, x, 1).receipt.notes[0]
    assert regard.explain(families.strong(Model(lambda m, x: x * 1)), x, 1).receipt.notes == []


def test_ids_embedded_twice_are_one_stream() -> None:
    """BART's classifier feeds the same ids, shifted, to its decoder: gradients of both embeddings count."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        f"{p}_{k}": v
        for p in ("encoder", "decoder")
        for k, v in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))
    }
    config = transformers.BartConfig(d_model=8, vocab_size=30, num_labels=3, eos_token_id=2, pad_token_id=1, **sizes)
    model = families.strong(transformers.BartForSequenceClassification(config))
    ids = torch.cat([families.ids(2, 5, high=30), torch.full((2, 1), 2)], 1)
    seen: list[Tensor] = []
    embeddings = {id(m): m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == 30}
    handles = [m.register_forward_hook(lambda m, i, o: seen.append(o) or o.retain_grad()) for m in embeddings.values()]
    model(input_ids=ids).logits[:, 1].sum().backward()
    for handle in handles:
        handle.remove()
    encoder, decoder = ((e * e.grad).sum(-1).detach() for e in seen)
    model.zero_grad()
    expected = encoder.clone()
    expected[:, :-1] += decoder[:, 1:]  # the decoder's ids are the encoder's, one to the right, after a start token
    found = regard.explain(model, {"input_ids": ids}, 1, "input_x_gradient").scores["input_ids"]
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("method", ["gae", "rollout", "input_x_gradient"])
def test_a_batch_of_packed_pictures_gives_what_each_sample_alone_gives(method: str) -> None:
    model = families.strong(Pictures())
    ids = torch.tensor([[0, 0, 7, 0, 0, 8], [9, 3, 0, 0, 4, 5]])  # two pictures, and one
    patches = families.noise(12, 6)
    both = regard.explain(model, {"ids": ids, "patches": patches}, 1, method, measure="full")
    assert both.receipt.faithful == 0
    assert "patches: 12" in both.receipt.notes[-1]
    for sample, own in ((0, slice(0, 8)), (1, slice(8, 12))):
        one = regard.explain(model, {"ids": ids[sample : sample + 1], "patches": patches[own]}, 1, method)
        torch.testing.assert_close(both.scores["ids"][sample], one.scores["ids"][0])
        torch.testing.assert_close(both.scores["patches"][sample, own], one.scores["patches"][0])
        assert float(both.scores["patches"][sample].abs().sum()) == float(
            both.scores["patches"][sample, own].abs().sum()
        )


def test_copies_of_a_mask_token_are_tokens_of_their_own() -> None:
    """Five tokens, three mask tokens, two layers: the row of a mask token is that of the full product, summed over copies."""

    def masked(m: Model, x: Tensor) -> Tensor:
        x = torch.cat([m.qkv(x)[..., :WIDTH], m.cls_token.expand(len(x), 3, -1)], 1) + m.pos[:, :8]
        q, k, v = m.qkv(x).chunk(3, -1)
        return x + F.scaled_dot_product_attention(q, k, v)

    model, x = families.strong(Model(masked, row=6)), families.noise(2, 5, WIDTH)
    calls = record(model, x).calls
    first, second = (c.rows(torch.arange(8), gradient=False).A.mean(1) + torch.eye(8) for c in calls)
    expected = (second / second.sum(-1, keepdim=True) @ (first / first.sum(-1, keepdim=True)))[:, 6]
    exp = regard.explain(model, x, 1, "rollout")
    torch.testing.assert_close(exp.scores["input"], expected[:, :5])
    torch.testing.assert_close(exp.scores["cls_token"][:, 0], expected[:, 5:].sum(1))


def test_two_inputs_joined_before_anything_are_told_apart() -> None:
    model = families.strong(Joined())
    recording = record(model, {"a": families.noise(2, 3, WIDTH), "b": families.noise(2, 4, WIDTH, seed=3)})
    assert {s.name: s.count for s in recording.streams} == {"a": 3, "b": 4}
    (call,) = recording.calls
    names = [
        next(s.name for s in recording.streams if s.first <= row < s.first + s.count) for row in call.keys[0] % STRIDE
    ]
    assert names == ["b"] * 4 + ["a"] * 3


def test_only_mixing_that_attention_can_see_is_told() -> None:
    """A recurrent state that runs along the tokens is told of; two rows added by the head are not."""

    def recurrent(m: Model, x: Tensor) -> Tensor:
        x, state, out = m.qkv(x)[..., :WIDTH], torch.zeros(len(x), WIDTH), []
        for t in range(x.shape[1]):
            state = 0.5 * state + x[:, t]
            out.append(state)
        return torch.stack(out, 1)

    class TwoRows(Model):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            out = F.scaled_dot_product_attention(q, k, v)
            return self.head(out[:, 0] + out[:, 1])

    x = families.noise(2, 5, WIDTH)
    (note,) = regard.explain(families.strong(Model(recurrent)), x, 1).receipt.notes
    assert "add of different tokens" in note
    assert regard.explain(families.strong(TwoRows(lambda m, x: x)), x, 1).receipt.notes == []


def test_windows_that_are_weighed_and_put_back_leave_rows_what_they_were() -> None:
    found, exp = keys(outlook)
    assert found == [inputs(*range(5))] * 2
    assert any("mixed outside attention" in note for note in exp.receipt.notes)
