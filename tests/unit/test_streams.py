"""What the user says of the tokens: a map that is mended so is the map of the same model whose trail is not lost."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.errors import Misuse, RegardError, TrailLost, UnknownName
from regard.recording import record
from support import families
from support.lost_trails import (
    HEADS,
    LOST,
    TOKENS,
    WIDTH,
    Attention,
    Codebooks,
    Latents,
    Layers,
    Signal,
    Step,
    order,
    ranked,
    reversed_tokens,
    seen_by_numpy,
    there_and_back,
    with_cls,
)

METHODS = ["gae", "rollout", "raw_attention", "corrected_attention", "input_x_gradient"]


def pair(lost: Step, found: Step, explicit: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    return *(families.strong(Layers(s, explicit)) for s in (lost, found)), families.noise(2, TOKENS, WIDTH)


@pytest.mark.parametrize("explicit", [False, True], ids=["fused", "softmax"])
@pytest.mark.parametrize("name", LOST)
def test_a_mended_map_is_the_map_of_the_model_that_is_followed(name: str, explicit: bool) -> None:
    step, found, streams, says = LOST[name]
    model, twin, x = pair(step, found, explicit)
    with pytest.raises(TrailLost, match=says):
        regard.explain(model, x, 1)
    mended = regard.explain(model, x, 1, METHODS, streams=streams, measure="full")
    expected = regard.explain(twin, x, 1, METHODS, measure="full")
    for m, e in zip(mended, expected, strict=True):
        assert m.scores.keys() == e.scores.keys()
        for stream, scores in e.scores.items():
            torch.testing.assert_close(m.scores[stream], scores, rtol=1e-4, atol=1e-6)
        assert max(float(s.abs().max()) for s in e.scores.values()) > 1e-3
        assert m.receipt.readout == e.receipt.readout
        assert "said by the caller: tokens of input are the" in " ".join(m.receipt.notes)
        assert e.receipt.notes == []


def test_a_mended_map_is_the_literal_product() -> None:
    """Π(I + E) with E = E_h (G ⊙ A)₊, from whole matrices that the model's own autograd gives."""
    model, _, x = pair(there_and_back, there_and_back, True)
    kept: list[Tensor] = []

    def softmax(scores: Tensor, dim: int) -> Tensor:
        kept.append(torch.nn.functional.softmax(scores, dim))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "softmax", softmax)
        y = model(x)[:, 1].sum()
    gradients = torch.autograd.grad(y, kept)
    total = torch.eye(TOKENS).expand(2, -1, -1)
    for A, G in zip(kept, gradients, strict=True):
        E = (A * G).clamp(min=0).mean(1).detach()
        total = total + E @ total
    expected = total[:, 0].clone()
    expected[:, 0] -= 1
    torch.testing.assert_close(regard.explain(model, x, 1, streams={"input": 0}).scores["input"], expected)


def test_an_order_of_each_sample_s_own() -> None:
    model, twin, x = pair(
        lambda m, x: ranked(x, order(x)), lambda m, x: x.take_along_dim(order(x)[..., None], 1), explicit=False
    )
    taken = order(model.project(x))  # row i of the call is token taken[i]; so token t stands at its place in `taken`
    assert not torch.equal(taken[0], taken[1])
    said = {"input": {"call": 0, "at": taken.argsort(1)}}
    expected = regard.explain(twin, x, 1).scores["input"]
    torch.testing.assert_close(regard.explain(model, x, 1, streams=said).scores["input"], expected)


class Cross(nn.Module):
    """Queries of one input, keys of another; either may be lost."""

    def __init__(self, lose: str) -> None:
        super().__init__()
        self.lose, self.attention, self.head = lose, Attention(False), nn.Linear(WIDTH, 3)

    def forward(self, text: Tensor, picture: Tensor) -> Tensor:
        text, picture = text * 1, picture * 1
        if self.lose == "queries":
            text = reversed_tokens(reversed_tokens(text))
        elif self.lose == "keys":
            picture = reversed_tokens(reversed_tokens(picture))
        return self.head(text + self.attention(text, picture))[:, 0]


CROSS = {"text": families.noise(2, TOKENS, WIDTH), "picture": families.noise(2, TOKENS, WIDTH, seed=3)}


@pytest.mark.parametrize(
    ("lose", "says", "streams"),
    [
        ("keys", "streams={'picture': 0}", {"picture": 0}),
        ("keys", "lost", {"picture": {"call": "attention", "side": "keys"}}),
        ("queries", "streams={'text': {'call': 0, 'side': 'queries'}}", {"text": {"call": 0, "side": "queries"}}),
        ("queries", "lost", {"text": [{"call": [0], "side": "queries"}], "picture": {"call": 0, "side": "keys"}}),
    ],
)
def test_one_side_of_a_cross_attention(lose: str, says: str, streams: Mapping[str, Any]) -> None:
    """As many tokens on both sides: what is said of the keys must not touch queries that are followed."""
    model, twin = (families.strong(Cross(how)) for how in (lose, ""))
    with pytest.raises(TrailLost) as raised:
        regard.explain(model, CROSS, 1)
    assert says in str(raised.value)
    mended, expected = regard.explain(model, CROSS, 1, streams=streams), regard.explain(twin, CROSS, 1)
    for name, scores in expected.scores.items():
        torch.testing.assert_close(mended.scores[name], scores)
    kinds = [c.kind for c in regard.inspect(model, CROSS, streams=streams).calls]
    assert kinds == ["cross"]


def test_the_error_tells_what_to_say_and_saying_it_helps() -> None:
    model, _, x = pair(there_and_back, there_and_back, False)
    with pytest.raises(TrailLost) as raised:
        regard.explain(model, x, 1)
    said = str(raised.value)
    assert "attention call 0 (layers.0: 5 rows, 5 keys, leading axes 2 x 2)" in said
    assert "the 5 tokens of input, in order, say streams={'input': 0}" in said
    assert "\n" not in said
    remedy = said.split("streams=")[1].split(";")[0]
    regard.explain(model, x, 1, streams=eval(remedy))


def test_tokens_of_no_input_get_a_name() -> None:
    """Five tokens resampled to three are nobody's tokens; the error offers a name, and the map is on it."""
    model = families.strong(Layers(lambda m, x: F.interpolate(x.transpose(1, 2), size=3).transpose(1, 2)))
    x = families.noise(2, TOKENS, WIDTH)
    with pytest.raises(TrailLost, match="3 tokens that you call 'tokens', say streams=") as raised:
        regard.explain(model, x, 1)
    assert "streams={'tokens': 0}" in str(raised.value)
    exp = regard.explain(model, x, 1, streams={"resampled": 0})
    assert exp.scores["resampled"].shape == (2, 3)
    assert "input" not in exp.scores
    assert float(exp.scores["resampled"].sum()) > 0
    (stream,) = regard.inspect(model, x, streams={"resampled": 0}).streams
    assert (stream.name, stream.tokens, stream.kind) == ("resampled", 3, "said")


def test_what_was_followed_can_be_corrected() -> None:
    """The user knows better: their word goes before the trail."""
    model, _, x = pair(lambda m, x: x, lambda m, x: x, False)
    plain = regard.explain(model, x, 1).scores["input"]
    backwards = {"input": {"call": "layers", "at": [4, 3, 2, 1, 0]}}
    torch.testing.assert_close(regard.explain(model, x, 1, streams=backwards).scores["input"], plain.flip(1))


def test_a_gradient_cut_by_another_library_is_told_by_the_target() -> None:
    model, twin, x = pair(seen_by_numpy, lambda m, x: x.detach() + 0 * x, False)
    with pytest.raises(TrailLost, match="no input or parameter that was followed"):
        regard.explain(model, x, 1)
    mended = regard.explain(model, x, 1, streams={"input": 0}).scores["input"]
    torch.testing.assert_close(mended, regard.explain(twin, x, 1).scores["input"])


# -- axes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gae", "input_x_gradient", "gradient"])
def test_an_axis_of_features(method: str) -> None:
    """As many tokens as features: only the axis tells them apart."""
    model, x = families.strong(Signal()), families.noise(2, WIDTH, WIDTH)
    found, said = (
        regard.explain(model, x, 1, method, streams=s).scores["input"] for s in (None, {"input": {"axis": 2}})
    )
    torch.testing.assert_close(said, found)
    if method != "gae":
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
        expected = (leaf * g).sum(1) if method == "input_x_gradient" else g.pow(2).sum(1).sqrt()
        torch.testing.assert_close(said, expected.detach())


def test_an_axis_of_ids() -> None:
    model, codes = families.strong(Codebooks()), families.ids(2, 3, TOKENS)
    with pytest.raises(TrailLost, match="of different tokens"):
        regard.explain(model, {"codes": codes}, 1)
    exp = regard.explain(model, {"codes": codes}, 1, streams={"codes": {"axis": -1}})
    with torch.no_grad():
        features = sum(e(codes[:, i]) for i, e in enumerate(model.embed))
    expected = regard.explain(model.layers, features, 1).scores["input"]
    torch.testing.assert_close(exp.scores["codes"], expected)
    assert exp.receipt.notes == ["said by the caller: tokens of codes are along axis -1"]


class Patches(nn.Module):
    """A kernel of its own cuts the picture, so that no patch convolution tells the grid."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.project = Layers(lambda m, x: x), nn.Linear(12, WIDTH)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.layers(self.project(torch.ops.regard_tests.cut(pixel_values)))


@torch.library.custom_op("regard_tests::cut", mutates_args=())
def cut(x: Tensor) -> Tensor:
    return F.unfold(x, 2, stride=2).transpose(1, 2).contiguous()


cut.register_autograd(lambda ctx, g: F.fold(g.transpose(1, 2), (4, 6), 2, stride=2))


def test_a_grid() -> None:
    model, x = families.strong(Patches()), families.noise(2, 3, 4, 6)
    with pytest.raises(TrailLost, match="regard_tests::cut"):
        regard.explain(model, {"pixel_values": x}, 1)
    exp = regard.explain(model, {"pixel_values": x}, 1, streams={"pixel_values": {"call": 0, "grid": (2, 3)}})
    assert exp.grid == {"pixel_values": (2, 3)}
    features = model.project(cut(x)).detach()
    torch.testing.assert_close(exp.scores["pixel_values"], regard.explain(model.layers, features, 1).scores["input"])


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("streams", "error", "says"),
    [
        ({"input": 7}, Misuse, "names attention call 7, but the run made 3, numbered from 0"),
        ({"input": -1}, Misuse, "names attention call -1"),
        ({"input": "layer.0"}, UnknownName, "did you mean 'layers.0'"),
        ({"cls_token": {"call": 0, "at": 9}}, Misuse, "at=9 names no positions among the 5 keys of attention call 0"),
        ({"input": {"call": 0, "at": slice(1, None)}}, Misuse, "4 of the keys of attention call 0 .* but it has 5"),
        ({"input": {"call": 0, "at": slice(9, None)}}, Misuse, "names no positions"),
        ({"input": {"call": 0, "sides": "keys"}}, UnknownName, "did you mean 'side'"),
        ({"input": {"call": 0, "side": "key"}}, UnknownName, "did you mean 'keys'"),
        ({"input": {"side": "keys"}}, Misuse, "either a call or an axis"),
        ({"input": {"call": 0, "axis": 1}}, Misuse, "either a call or an axis"),
        ({"input": {"axis": 0}}, Misuse, "axis 0 is not a token axis"),
        ({"input": {"axis": 3}}, Misuse, "axis 3 is not a token axis"),
        ({"input": {"axis": "1"}}, Misuse, "an axis is a number"),
        ({"inputs": {"axis": 1}}, UnknownName, "did you mean 'input'"),
        ({"input": {"call": 0, "grid": (2, 2)}}, Misuse, "a grid of 2 x 2 does not hold 5 tokens"),
        ({"input": {"call": {"axis": 1}}}, Misuse, "a call is a number or a module's path"),
        ({"input": 1.5}, Misuse, "must be the number of an attention call"),
        ({"input": True}, Misuse, "must be the number of an attention call"),
        ({"input": []}, Misuse, "must be the number of an attention call"),
        (["input"], Misuse, "streams must be a dict"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_statements_are_one_sentence(streams: Any, error: type, says: str) -> None:
    model, _, x = pair(there_and_back, there_and_back, False)
    for call in (regard.explain, regard.inspect, regard.record):
        with pytest.raises(error, match=says) as raised:
            call(model, x, 1, streams=streams)
        assert isinstance(raised.value, RegardError)
        assert "\n" not in str(raised.value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_too_many_tokens_for_a_name() -> None:
    model, _, x = pair(lambda m, x: with_cls(m, there_and_back(m, x)), with_cls, False)
    with pytest.raises(Misuse, match=r"the 6 keys of attention call 0 .* but it has 5: say at which positions"):
        regard.explain(model, x, 1, streams={"input": 0})


# -- how sure ---------------------------------------------------------------------------------------------------------


def sure(model: nn.Module, x: Any, **options: Any) -> list[str]:
    seen = regard.inspect(model, x, **options)
    assert all(str(c.certainty) in str(seen) for c in seen.calls)
    return [str(c.certainty) for c in seen.calls]


def test_inspect_tells_how_sure() -> None:
    model, twin, x = pair(there_and_back, with_cls, False)
    assert sure(twin, x) == ["followed"] * 3
    assert sure(model, x) == ["lost: the trail of the keys is lost at `cumsum`"] * 3
    assert sure(model, x, streams={"input": 0}) == ["said by the caller", "followed", "followed"]
    lost = regard.inspect(model, x)
    assert {c.shape for c in lost.calls} == {(5, 5)}
    convolved = families.strong(Layers(lambda m, x: F.conv1d(x.mT, torch.ones(WIDTH, WIDTH, 3), padding=1).mT + x))
    doubt = "a convolution (conv1d) mixed in neighbours, which are not followed"
    assert sure(convolved, x) == [f"followed, but {doubt}"] * 3
    told, mixing = regard.explain(convolved, x, 1).receipt.notes
    assert told == f"unsure in attention call 0, 1, 2: {doubt}"
    assert mixing == "tokens are mixed outside attention (conv1d), which maps do not follow"


def test_inspect_tells_the_readout_of_a_target() -> None:
    model, _, x = pair(there_and_back, there_and_back, False)
    mend = {"input": 0}
    assert regard.inspect(model, x, 1, streams=mend).readout == "input[0], found from the gradient"
    assert "read-out: input[0]" in str(regard.inspect(model, x, 1, streams=mend))
    assert regard.inspect(model, x, 1, streams=mend, readout="last").readout == "last, as asked"
    assert "not known" in regard.inspect(model, x, 1).readout
    assert regard.inspect(model, x, streams=mend).readout == ""


def test_a_recording_keeps_the_readout_that_was_asked_for() -> None:
    model, _, x = pair(lambda m, x: x, lambda m, x: x, False)
    rec = record(model, x, 1, readout=3)
    (weights,) = rec.readout(rec.gradients()).values()
    assert weights[:, rec.stream("input").rows].tolist() == [[0, 0, 0, 1, 0]] * 2
    with pytest.raises(UnknownName, match="did you mean 'cls'"):
        record(model, x, 1, readout="clss")


def queries(m: Layers, x: Tensor) -> Tensor:
    """Rows of a parameter given to windows, as many as there are samples, and only then to samples."""
    windows = m.cls_token.expand(2, -1, -1)[None].expand(len(x), -1, -1, -1)
    return torch.cat([windows, x[:, :4].unflatten(1, (2, 2))], 2).flatten(0, 1)


class Windows(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(0, (len(x), 2)).mean(1)


def test_a_parameter_given_to_the_wrong_axis_is_refused_and_one_sample_is_not() -> None:
    """Two samples of two windows each: by their lengths the axes cannot be told apart, but the rows beside them tell."""
    model, x = families.strong(Windows(queries)), families.noise(2, TOKENS, WIDTH)
    with pytest.raises(TrailLost, match="rows of cls_token were assigned to samples only because an axis"):
        regard.explain(model, x, 1)
    three = families.noise(3, TOKENS, WIDTH)
    both = regard.explain(model, three, 1).scores
    for i in range(3):
        alone = regard.explain(model, three[i : i + 1], 1).scores
        torch.testing.assert_close(both["input"][i : i + 1], alone["input"])


def test_a_parameter_that_never_stands_beside_an_input_is_in_doubt() -> None:
    x = families.noise(2, TOKENS, WIDTH)
    assert sure(families.strong(Latents(True)), x) == ["followed", "followed"]
    doubtful = "followed, but rows of latents are assigned to samples by the length of an axis"
    assert sure(families.strong(Latents(False)), x) == [doubtful, "followed"]
    assert sure(families.strong(Latents(False)), x[:1]) == ["followed", "followed"]


def test_a_reader_passes_it_through() -> None:
    reader = regard.load("zoo/bert-sentiment")
    text, said = "A fine film.", {"input_ids": {"call": "bert.encoder"}}
    expected, found = (reader.explain(text, target="positive", streams=s) for s in (None, said))
    torch.testing.assert_close(found.scores["input_ids"], expected.scores["input_ids"])
    assert found.receipt.notes[0].startswith("said by the caller: tokens of input_ids are the keys and queries")
    seen = reader.inspect(text, target="positive", streams=said)
    assert {str(c.certainty) for c in seen.calls} == {"said by the caller"}
    assert seen.readout == "input_ids[0], found from the gradient"


# -- remedies, followed to the letter ----------------------------------------------------------------------------------


def followed(model: nn.Module, x: Any, target: Any = 1) -> regard.Explanation | str:
    """What a reader comes to who does what each error says: a map, or the first error that offers no statement."""
    said: dict[str, list[Any]] = {}
    for _ in range(20):
        try:
            return regard.explain(model, x, target, streams=said or None)
        except TrailLost as error:
            sentence = str(error)
        if "say streams=" not in sentence:
            return sentence
        more = ast.literal_eval(sentence.split("say streams=")[1].split(";")[0])
        for name, what in more.items():
            assert what not in said.get(name, []), f"says once more: {sentence}"
            said.setdefault(name, []).append(what)
    raise AssertionError(f"no end: {sentence}")


def only_other_methods_can(model: nn.Module, x: Any, sentence: str, target: Any = 1) -> None:
    """The error names methods that need no attention map, and they run."""
    assert "\n" not in sentence
    named = sentence.split("; methods that need none: ")[1].split(", ")
    assert {"gradient", "integrated_gradients", "input_x_gradient"} <= {*named}
    for method in ("gradient", "integrated_gradients"):
        assert regard.explain(model, x, target, method).scores


class ByChannels(Layers):
    """Features look at features (XCiT, Restormer, DaViT), whatever it is written with; `mixed`: and then tokens at tokens."""

    def __init__(self, how: str, mixed: bool = False) -> None:
        super().__init__(lambda m, x: x)
        self.how, self.mixed, self.qkv = how, mixed, nn.Linear(WIDTH, 3 * WIDTH)
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            q, k, v = (t.unflatten(-1, (HEADS, -1)).permute(0, 2, 3, 1) for t in self.qkv(x).chunk(3, -1))
            if self.how == "normed":
                q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
                o = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(-1) @ v
            elif self.how == "tokens first":
                q, k, v = (t.transpose(-1, -2) for t in (q, k, v))
                o = ((q.transpose(-1, -2) @ (k * 0.4)).softmax(-1) @ v.transpose(-1, -2)).contiguous()
            elif self.how == "einsum":
                o = torch.einsum("bhcd,bhdn->bhcn", torch.einsum("bhcn,bhdn->bhcd", q, k).softmax(-1), v)
            else:
                o = F.scaled_dot_product_attention(q, k, v)
            x = x + o.flatten(1, 2).transpose(1, 2)
        return super().forward(x) if self.mixed else self.head(x.mean(1))


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("how", ["normed", "tokens first", "einsum", "fused"])
def test_attention_between_channels_is_named(how: str, mixed: bool) -> None:
    """No statement makes tokens of features, and none is offered."""
    model, x = families.strong(ByChannels(how, mixed)), families.noise(2, TOKENS, WIDTH)
    sentence = followed(model, x)
    assert isinstance(sentence, str)
    assert "attention call 0 (the model: 4 rows, 4 keys, leading axes 2 x 2) weighs channels, not tokens (" in sentence
    assert "there is no map of tokens; methods that need none: " in sentence
    only_other_methods_can(model, x, sentence)
    assert "weighs channels" in regard.inspect(model, x).calls[0].certainty.lost


class Sorted(Layers):
    """Each head sorts the tokens by a hash of its own, and attends chunk by chunk (Reformer)."""

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layers[0]
        k, v = layer.kv(x).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (layer.q(x), k, v))
        order = q.detach()[..., 0].argsort(-1)[..., :4, None].expand(-1, -1, -1, q.shape[-1])
        q, k, v = (t.gather(2, order).unflatten(2, (2, 2)) for t in (q, k, v))
        o = F.scaled_dot_product_attention(q, k, v).flatten(2, 3)
        o = torch.zeros(*o.shape[:2], TOKENS, o.shape[-1]).scatter(2, order, o)
        return self.head((x + o.transpose(1, 2).flatten(2))[:, 0])


def copied(m: Layers, x: Tensor) -> Tensor:
    """Copies of the tokens, which chunks of rows would tell apart."""
    return x[:, [*range(TOKENS)] * 2]


class InChunks(Layers):
    def forward(self, x: Tensor) -> Tensor:
        layer, x = self.layers[0], copied(self, x)
        k, v = layer.kv(x).chunk(2, -1)
        o = torch.cat([F.scaled_dot_product_attention(q, k, v) for q in layer.q(x).split(3, 1)], 1)
        return self.head((x + o)[:, 0])


UNTOLD = {
    "heads of different orders": lambda: Sorted(lambda m, x: x),
    "copies in chunks": lambda: InChunks(lambda m, x: x),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_what_no_statement_can_mend_offers_none(name: str) -> None:
    model, x = families.strong(UNTOLD[name]()), families.noise(2, TOKENS, WIDTH)
    sentence = followed(model, x)
    assert isinstance(sentence, str)
    assert "streams= cannot tell these apart, and there is no map of such attention" in sentence
    only_other_methods_can(model, x, sentence)


class Resampled(Layers):
    """Two calls read rows of no input, three and then two of them."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        for size, layer in zip((3, 2), (self.layers[0], self.layers[0]), strict=True):
            few = F.interpolate(x.transpose(1, 2), size=size).transpose(1, 2)
            x = x + layer(x, few)
        return self.head(x[:, 0])


def test_names_that_are_offered_are_free() -> None:
    model, x = families.strong(Resampled(lambda m, x: x)), families.noise(2, TOKENS, WIDTH)
    found = followed(model, x)
    assert isinstance(found, regard.Explanation)
    assert {name: t.shape[1] for name, t in found.scores.items()} == {"input": 5, "tokens": 3, "tokens of call 1": 2}


def test_a_batch_whose_length_is_that_of_another_axis() -> None:
    model, x = families.strong(Windows(queries)), families.noise(2, TOKENS, WIDTH)
    sentence = followed(model, x)
    assert isinstance(sentence, str)
    assert "explain another number of samples at a time" in sentence
    assert regard.explain(model, x[:1], 1).scores
