"""Inputs as they are: pictures of any size and layout, whole numbers, nested inputs, shared ones, caches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import regard
from support.odd_inputs import (
    HELD,
    NUMBERS,
    Asked,
    BatchFirst,
    Drawing,
    Features,
    Flat,
    Match,
    Remembering,
    SequenceFirst,
    Table,
    Two,
    W,
    WordsFirst,
    tiny,
)

# -- nested inputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hold", "first", "second"), HELD)
def test_a_container_that_is_one_argument_is_followed(hold, first, second) -> None:
    """Streams have dotted names, and the maps are those of the same model with two arguments."""
    torch.manual_seed(0)
    net, a, b = Two().eval(), torch.randn(2, 5, W), torch.randn(2, 7, W)
    flat = Flat().eval()
    flat.load_state_dict(net.state_dict())
    held, kept = hold(a, b), (a.clone(), b.clone())
    for method in ("gae", "integrated_gradients"):
        how = {"steps": 2} if method == "integrated_gradients" else {}
        e, f = (regard.explain(m, x, 1, method, **how) for m, x in ((net, held), (flat, {"mri": a, "ct": b})))
        assert list(e.scores) == [first, second]
        for name, wanted in ((first, "mri"), (second, "ct")):
            torch.testing.assert_close(e.scores[name], f.scores[wanted], rtol=1e-4, atol=1e-6)
        assert e.receipt.faithful < 1e-6
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])
    assert [s.name for s in regard.inspect(net, held).streams] == [first, second]


def test_a_baseline_names_a_nested_stream() -> None:
    torch.manual_seed(0)
    net, a, b = Two().eval(), torch.randn(1, 5, W), torch.randn(1, 7, W)
    inputs, zero = {"batch": [a, b]}, regard.Baseline.zero()
    e = regard.explain(net, inputs, 1, "integrated_gradients", baseline={"batch.1": zero}, steps=30)
    assert not e.scores["batch.0"].any()
    y0 = net([a, torch.zeros_like(b)])[0, 1]
    torch.testing.assert_close(e.receipt.baseline_value[0], y0.detach(), rtol=1e-5, atol=1e-6)


def test_a_dictionary_of_features_that_the_model_adds_to() -> None:
    """SentenceTransformer's way: the caller's dictionary is left as it was, padding scores 0."""
    torch.manual_seed(0)
    ids, mask = torch.randint(3, 50, (2, 6)), torch.ones(2, 6, dtype=torch.int64)
    mask[1, 4:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    e = regard.explain(Features().eval(), given, 1)
    assert set(given) == {"input_ids", "attention_mask"}
    assert (e.scores["input.input_ids"] != 0).equal(mask.bool())


@pytest.mark.parametrize(
    "inputs",
    [{"ct": torch.zeros(1, 5, W)}, {"mri": torch.zeros(1, 5, W), "pet": torch.zeros(1, 5, W)}, (torch.zeros(1, 5, W),)],
)
def test_inputs_that_the_forward_does_not_take_are_one_sentence(inputs) -> None:
    """No traceback of Python's own call."""
    with pytest.raises(regard.RegardError, match=r"Flat's forward takes \(mri, ct\)"):
        regard.explain(Flat().eval(), inputs, 1)


# -- the samples' axis ------------------------------------------------------------------------------------------------

METHODS = {
    "gae": {},
    "input_x_gradient": {},
    "smoothgrad": {"samples": 1},
    "integrated_gradients": {"steps": 2, "baseline": regard.Baseline.mean()},
    "odam": {},
}


def same_maps(first: nn.Module, x: Tensor, second: nn.Module, y: Tensor, target, **how) -> None:
    for method, options in METHODS.items():
        if not x.is_floating_point():
            options = {k: v for k, v in options.items() if k != "baseline"}
        e = regard.explain(first, {"x": x}, target, method, **how, **options)
        f = regard.explain(second, {"x": y}, target, method, **options)
        torch.testing.assert_close(e.scores["x"], f.scores["x"], rtol=1e-4, atol=1e-6)
        assert e.receipt.faithful < 1e-5
        for value in ("baseline_value", "attribution_sum"):
            a, b = getattr(e.receipt, value), getattr(f.receipt, value)
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("batch_axis", [-2, {"x": 1}])
def test_sequence_first_by_batch_axis(batch_axis) -> None:
    """The maps of the same function of (batch, tokens, width)."""
    torch.manual_seed(0)
    net, x = SequenceFirst().eval(), torch.randn(6, 2, W)
    other = BatchFirst().eval()
    other.load_state_dict(net.state_dict())
    same_maps(net, x, other, x.transpose(0, 1).clone(), 1, batch_axis=batch_axis)


def test_ids_of_tokens_by_batch() -> None:
    """(tokens, batch) of ids: a token's score is read in (tokens, batch, class), where only provenance tells the axes."""
    torch.manual_seed(0)

    class Turned(WordsFirst):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.T).transpose(0, 1)

    net, ids = WordsFirst().eval(), torch.randint(0, 40, (3, 3))
    other = Turned().eval()
    other.load_state_dict(net.state_dict())
    same_maps(net, ids, other, ids.T.clone(), regard.Target.logit(1, position=2), batch_axis=1)


def test_one_bag_without_a_batch_axis() -> None:
    """(instances, width), as multiple-instance learning has it; a model that adds the axis itself gives the same."""
    torch.manual_seed(0)

    class Bag(SequenceFirst):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, None])

    net, x = SequenceFirst().eval(), torch.randn(6, W)
    other = BatchFirst().eval()
    other.load_state_dict(net.state_dict())
    same_maps(net, x, other, x[None], 1, batch_axis=None)
    bag = Bag().eval()
    bag.load_state_dict(net.state_dict())
    same_maps(bag, x, other, x[None], 1, batch_axis=None)


@pytest.mark.parametrize("x", [torch.randn(6, 2, W), torch.randn(6, W)], ids=["sequence first", "a bag"])
def test_samples_elsewhere_are_refused_with_what_helps(x: Tensor) -> None:
    with pytest.raises(
        regard.RegardError, match=r"batch_axis=1; where none is, as in .tokens, width., batch_axis=None"
    ):
        regard.explain(SequenceFirst().eval(), {"x": x}, 1)


@pytest.mark.parametrize(("axis", "said"), [(7, "axes 0 to 2"), ({"y": 1}, "unknown input"), ("1", "must be a number")])
def test_an_axis_that_there_is_not(axis, said: str) -> None:
    with pytest.raises(regard.RegardError, match=said):
        regard.explain(SequenceFirst().eval(), {"x": torch.randn(6, 2, W)}, 1, batch_axis=axis)


# -- caches -----------------------------------------------------------------------------------------------------------


def test_a_cache_is_copied_for_each_run() -> None:
    """The caller's stays as found, every run reads the same, and a note says how many keys are nobody's."""
    torch.manual_seed(0)
    net, ids, past = Remembering().eval(), torch.randint(0, 50, (1, 8)), []
    with torch.no_grad():
        net(ids[:, :5], past)
        true = net(ids[:, 5:], [*past])[0, -1, 7]
    kept = [t.clone() for t in past[0]]
    for method in ("gae", "integrated_gradients"):
        how = {"steps": 2} if method == "integrated_gradients" else {}
        e = regard.explain(net, {"ids": ids[:, 5:], "past": past}, regard.Target.next_token(7), method, **how)
        assert e.receipt.faithful < 1e-6
        torch.testing.assert_close(e.receipt.target_value[0], true)
        note = (
            "5 of the 8 keys of attention call 0 come from past" if method == "gae" else "past: what rests on tokens in"
        )
        assert any(note in n for n in e.receipt.notes)  # a method that follows no keys has not counted them
    assert len(past) == 1
    assert all(torch.equal(a, b) for a, b in zip(past[0], kept, strict=True))


def test_caches_of_a_library_and_masks_stay_as_found() -> None:
    """A DynamicCache does not grow, an in-place change of a mask is not seen outside; a cache with a graph is refused."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    how = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(**how, num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    net, ids = transformers.LlamaForCausalLM(config).eval(), torch.randint(3, 50, (1, 8))
    cache = transformers.DynamicCache(config=config)
    with torch.no_grad():
        net(ids[:, :5], cache=cache)
    inputs = {"input_ids": ids[:, 5:], "cache": cache, "attention_mask": torch.ones(1, 8, dtype=torch.int64)}
    e = regard.explain(net, inputs, regard.Target.next_token(7))
    assert cache.get_seq_length() == 5
    assert e.receipt.faithful < 1e-5
    assert any("5 of the 8 keys" in n for n in e.receipt.notes)
    grown = transformers.DynamicCache(config=config)
    net(ids[:, :5], cache=grown)
    with pytest.raises(regard.RegardError, match=r"cache cannot be copied for each run.*torch\.no_grad"):
        regard.explain(net, inputs | {"cache": grown}, regard.Target.next_token(7))


# -- numbers that become others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients"])
def test_pairs_of_numbers_that_are_turned_as_complex_ones_enter_once(method: str) -> None:
    """Rotary positions on the features themselves, as LLaMA's own code writes them."""

    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = tiny(), nn.Linear(W, 3)

        def forward(self, x: Tensor) -> Tensor:
            angles = torch.arange(x.shape[1])[:, None] / 10.0 ** torch.arange(W // 2)
            turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angles), angles)
            return self.head(self.body(torch.view_as_real(turned).flatten(2)).mean(1))

    torch.manual_seed(0)
    net, x = Rotated().eval(), torch.randn(2, 5, W)
    e = regard.explain(net, {"x": x}, 1, method, **({"steps": 1} if method == "integrated_gradients" else {}))
    leaf = (x if method == "input_x_gradient" else x / 2).clone().requires_grad_()
    (g,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    torch.testing.assert_close(e.scores["x"], (g * x).sum(-1), rtol=1e-4, atol=1e-6)


# -- whole numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "x", "grid"), NUMBERS, ids=["bytes", "counts"])
def test_whole_numbers_that_the_model_counts_with(make, x: Tensor, grid) -> None:
    """The maps are those of the same numbers as floats, by every way of counting."""
    torch.manual_seed(0)
    net, name = make().eval(), "picture" if grid else "counts"
    for method, options in METHODS.items():
        if method == "smoothgrad":
            continue  # its noise is drawn in the order in which numbers enter
        e, f = (regard.explain(net, {name: v}, 1, method, **options) for v in (x, x.float()))
        assert e.grid == f.grid == ({name: grid} if grid else {})
        torch.testing.assert_close(e.scores[name], f.scores[name], rtol=1e-4, atol=1e-6)
    assert e.receipt.faithful < 1e-6
    assert x.dtype in (torch.uint8, torch.int64)


class Padded(nn.Module):
    """Which of its floats are padding is told by a bias of the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        padding = torch.where((x - 9).abs() < 1e-6, 1.0, torch.zeros(())).amin(-1)
        o = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=padding[:, None, None] * -1e4)
        return self.head(o.transpose(1, 2).flatten(2).mean(1))


def test_what_is_told_from_floats_is_no_input() -> None:
    torch.manual_seed(0)
    net, x = Padded().eval(), torch.randn(2, 5, 8)
    x[1, 3:] = 9
    recording = regard.record(net, {"x": x})
    assert set(recording.leaves) == {"x"}
    assert not recording.calls[0].mask.requires_grad
    torch.testing.assert_close(recording.output, net(x), rtol=0, atol=0)


def test_a_picture_of_yes_and_no() -> None:
    """A bool tensor that is no mask is what the model makes of it."""
    torch.manual_seed(0)
    net, x = Drawing(4, 1).eval(), torch.rand(2, 1, 16, 16) > 0.5
    for method in ("gae", "input_x_gradient"):
        e, f = (regard.explain(net, {"picture": v}, 1, method) for v in (x, x.float()))
        assert e.grid == {"picture": (4, 4)}
        torch.testing.assert_close(e.scores["picture"], f.scores["picture"])


@pytest.mark.parametrize("how", ["index", "one hot"])
def test_ids_are_ids_however_they_are_looked_up(how: str) -> None:
    torch.manual_seed(0)
    net, ids = Table(how).eval(), torch.randint(0, 30, (2, 5))
    embedded = Table("embedding").eval()
    embedded.load_state_dict(net.state_dict())
    for method in ("gae", "input_x_gradient"):
        e, f = (regard.explain(m, {"ids": ids}, 1, method) for m in (net, embedded))
        assert list(e.scores) == ["ids"]
        torch.testing.assert_close(e.scores["ids"], f.scores["ids"], rtol=1e-4, atol=1e-6)


# -- shared inputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gae", "integrated_gradients", "input_x_gradient"])
def test_one_picture_and_several_prompts(method: str) -> None:
    """A row of words for each prompt; with the one that is asked for alone, the same map."""
    torch.manual_seed(0)
    net, picture, ids = Match().eval(), torch.randn(1, 3, 16, 16), torch.randint(0, 40, (3, 5))
    how = {"steps": 2} if method == "integrated_gradients" else {}
    e = regard.explain(net, {"picture": picture, "ids": ids}, 1, method, measure="full", **how)
    f = regard.explain(net, {"picture": picture, "ids": ids[1:2]}, 0, method, measure="full", **how)
    assert {k: tuple(v.shape) for k, v in e.scores.items()} == {"picture": (1, 16), "ids": (3, 5)}
    torch.testing.assert_close(e.scores["picture"], f.scores["picture"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(e.scores["ids"][1], f.scores["ids"][0], rtol=1e-4, atol=1e-6)
    assert not e.scores["ids"][[0, 2]].any()
    torch.testing.assert_close(e.receipt.attribution_sum, f.receipt.attribution_sum, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(e.receipt.attribution_target, f.receipt.attribution_target, rtol=1e-4, atol=1e-5)
    assert e.batch == len(e) == 3  # a page has a section for each prompt, the picture in the first
    soft = regard.explain(net, {"picture": picture, "ids": ids}, lambda o: o.softmax(-1)[:, 1], method, **how)
    assert soft.scores["ids"].any(1).all()  # over all prompts: each has a say


def test_one_picture_that_several_texts_share() -> None:
    """The other way round, a number for each text: each has the map of its own pair."""
    torch.manual_seed(0)

    class Turned(Match):
        def forward(self, picture: Tensor, ids: Tensor) -> Tensor:
            return super().forward(picture, ids).T

    net, picture, ids = Turned().eval(), torch.randn(1, 3, 16, 16), torch.randint(0, 40, (3, 5))
    e = regard.explain(net, {"picture": picture, "ids": ids}, 0)
    for i in range(3):
        f = regard.explain(net, {"picture": picture, "ids": ids[i : i + 1]}, 0)
        torch.testing.assert_close(e.scores["picture"][i], f.scores["picture"][0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(e.scores["ids"][i], f.scores["ids"][0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spread", [True, False], ids=["expanded", "broadcast"])
@pytest.mark.parametrize("method", ["gae", "input_x_gradient"])
def test_questions_that_all_samples_share(spread: bool, method: str) -> None:
    """As where each sample is given its own copy."""
    torch.manual_seed(0)
    net, x, questions = Asked(spread).eval(), torch.randn(3, 5, W), torch.randn(1, 2, W)
    e, f = (regard.explain(net, {"x": x, "questions": q}, 1, method) for q in (questions, questions.repeat(3, 1, 1)))
    for name in e.scores:
        torch.testing.assert_close(e.scores[name], f.scores[name], rtol=1e-4, atol=1e-6)
