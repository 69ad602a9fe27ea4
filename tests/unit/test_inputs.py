"""Inputs as they are: pictures of any size and layout, whole numbers, nested inputs, shared ones, caches."""

from __future__ import annotations

import warnings
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

import regard
from regard import Baseline
from regard.errors import Misuse
from support.tiny import noise, strong

W = 16


def tiny(blocks: int = 1, batch_first: bool = True) -> nn.TransformerEncoder:
    """A Transformer with attention that is far from flat."""
    layer = nn.TransformerEncoderLayer(W, 4, 32, dropout=0.0, batch_first=batch_first)
    body = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)
    with torch.no_grad():
        for p in body.parameters():
            if p.ndim > 1:
                p.mul_(2.0)
    return body


class Convolved(nn.Module):
    """A ViT as timm writes it: a convolution whose stride is the patch; what is left of the picture goes unread."""

    def __init__(self, patch: int, channels: int = 3) -> None:
        super().__init__()
        self.cut, self.body, self.head = nn.Conv2d(channels, W, patch, patch), tiny(), nn.Linear(W, 3)

    def forward(self, picture: Tensor) -> Tensor:
        return self.head(self.body(self.cut(picture).flatten(2).transpose(1, 2)).mean(1))


class Rearranged(nn.Module):
    """A ViT as vit-pytorch writes it: patches flattened by a reshape, then a linear layer; the picture is cropped first."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.cut, self.body, self.head = nn.Linear(3 * patch * patch, W), tiny(), nn.Linear(W, 3)

    def forward(self, picture: Tensor) -> Tensor:
        p = self.patch
        b, c, h, w = picture.shape
        x = picture[:, :, : h // p * p, : w // p * p].reshape(b, c, h // p, p, w // p, p)
        x = x.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)
        return self.head(self.body(self.cut(x)).mean(1))


class Stemmed(nn.Module):
    """Early convolutions (Xiao et al., 2021): two of stride 2 make a patch of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.GELU(), nn.Conv2d(8, W, 2, 2))
        self.body, self.head = tiny(), nn.Linear(W, 3)

    def forward(self, picture: Tensor) -> Tensor:
        return self.head(self.body(self.stem(picture).flatten(2).transpose(1, 2)).mean(1))


def cells(t: Tensor, patch: int, rows: int, columns: int) -> Tensor:
    """(batch, channel, height, width) -> (batch, token, element), patch by patch."""
    found = [
        t[:, :, patch * i : patch * (i + 1), patch * j : patch * (j + 1)] for i in range(rows) for j in range(columns)
    ]
    return torch.stack([c.flatten(1) for c in found], 1)


NO_MULTIPLE = [
    (lambda: Convolved(6), (20, 26), 6),
    (lambda: Rearranged(5), (17, 23), 5),
    (Stemmed, (18, 15), 4),
]


@pytest.mark.parametrize(("make", "size", "patch"), NO_MULTIPLE, ids=["convolution", "reshape", "stem"])
def test_cells_of_a_picture_that_is_no_multiple_of_its_patch(make, size, patch) -> None:
    """Cells have the patch's size; each token has exactly what its own pixels make, by hand."""
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, 3, *size)
    rows, columns = size[0] // patch, size[1] // patch
    leaf = x.clone().requires_grad_()
    y = model(leaf)[:, 1]
    (g,) = torch.autograd.grad(y.sum(), leaf)
    gc, xc = cells(g, patch, rows, columns), cells(x, patch, rows, columns)
    for method, options, wanted in [
        ("gradient", {}, gc.norm(dim=-1)),
        ("gradient", {"reduce": "mean"}, gc.mean(-1)),
        ("input_x_gradient", {}, (gc * xc).sum(-1)),
    ]:
        e = regard.explain(model, {"picture": x}, 1, method, **options)
        assert e.grid["picture"] == (rows, columns)
        torch.testing.assert_close(e.scores["picture"], wanted, rtol=1e-4, atol=1e-6)
    e = regard.explain(model, {"picture": x}, 1, "integrated_gradients", steps=3, baseline=regard.Baseline.mean())
    assert (e.scores["picture"] != 0).all()  # the last row and column of patches, too


def test_the_rest_of_a_picture_counts_with_the_last_patch() -> None:
    """Where the model reads the rest some other way, nothing of it is lost: the last patch of its row or column has it."""

    class Whole(Convolved):
        def forward(self, picture: Tensor) -> Tensor:
            return super().forward(picture) + (picture * torch.arange(20.0)).sum((1, 2, 3))[:, None]

    torch.manual_seed(0)
    model, x = Whole(6).eval(), torch.randn(1, 3, 20, 20)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    e = regard.explain(model, {"picture": x}, 1, "input_x_gradient")
    torch.testing.assert_close(e.scores["picture"].sum(1), (g * x).sum((1, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(e.scores["picture"][0, 8], (g * x)[0, :, 12:, 12:].sum(), rtol=1e-4, atol=1e-5)


def test_a_map_of_a_picture_that_is_no_multiple_lies_where_its_patches_lie(tmp_path) -> None:
    """Drawn at the picture's size, the middle of each cell has its token's score; the rest goes on as the last cell."""
    torch.manual_seed(0)
    model, x = Rearranged(5).eval(), torch.randn(1, 3, 17, 23)
    e = regard.explain(model, {"picture": x}, 1)
    drawn, cells = e.image_map((17, 23))[0], e.image_map()[0]
    torch.testing.assert_close(drawn[2:15:5, 2:20:5], cells)
    torch.testing.assert_close(drawn[-1, -1], cells[-1, -1])
    again = regard.Explanation.load(e.save(tmp_path / "map.safetensors"))
    torch.testing.assert_close(again.image_map((17, 23))[0], drawn)


# -- nested inputs ----------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """A model that takes its two sequences as one argument, whatever holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = tiny(), nn.Linear(2 * W, 3)

    def both(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.body(a).mean(1), self.body(b).mean(1)], -1))

    def forward(self, batch) -> Tensor:
        if isinstance(batch, Pair | Record):
            return self.both(batch.mri, batch.ct)
        return self.both(*(batch.values() if isinstance(batch, dict | UserDict) else batch))


class Flat(Two):
    """The same as two arguments."""

    def forward(self, mri: Tensor, ct: Tensor) -> Tensor:
        return self.both(mri, ct)


class Pair(NamedTuple):
    mri: Tensor
    ct: Tensor


@dataclass(frozen=True)
class Record:
    mri: Tensor
    ct: Tensor


HELD = [
    (lambda a, b: {"mri": a, "ct": b}, "batch.mri", "batch.ct"),
    (lambda a, b: {"batch": {"mri": a, "ct": b}}, "batch.mri", "batch.ct"),
    (lambda a, b: ({"mri": a, "ct": b},), "batch.mri", "batch.ct"),
    (lambda a, b: [a, b], "batch.0", "batch.1"),
    (lambda a, b: {"batch": (a, b)}, "batch.0", "batch.1"),
    (lambda a, b: {"batch": UserDict(mri=a, ct=b)}, "batch.mri", "batch.ct"),
    (lambda a, b: Pair(a, b), "batch.mri", "batch.ct"),
    (lambda a, b: Record(a, b), "batch.mri", "batch.ct"),
    (lambda a, b: {"batch": Record(a, b)}, "batch.mri", "batch.ct"),
]


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


class Features(nn.Module):
    """SentenceTransformer's modules: a dictionary of features goes in, and comes out richer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body, self.head = nn.Embedding(50, W), tiny(), nn.Linear(W, 3)

    def forward(self, input: dict[str, Tensor], **kwargs) -> dict[str, Tensor]:
        x = self.body(self.words(input["input_ids"]), src_key_padding_mask=input["attention_mask"] == 0)
        real = input["attention_mask"][..., None].float()
        input["logits"] = self.head((x * real).sum(1) / real.sum(1))
        return input


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


class SequenceFirst(nn.Module):
    """PyTorch's own default layout, (tokens, batch, width)."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.body = tiny(1, batch_first=False)
        self.head = nn.Linear(W, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(0))


class BatchFirst(SequenceFirst):
    """The same function of (batch, tokens, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1))


class WordsFirst(SequenceFirst):
    """Ids (tokens, batch), and scores for every token, as language models of fairseq's days have them."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, W)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.words(x)))


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


class Remembering(nn.Module):
    """Keys and values of earlier tokens in a list that each run makes longer, as nanoGPT with a cache has it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.qkv, self.head = nn.Embedding(50, W), nn.Linear(W, 3 * W), nn.Linear(W, 50)

    def forward(self, ids: Tensor, past: list | None = None) -> Tensor:
        q, k, v = self.qkv(self.words(ids)).chunk(3, -1)
        past = [] if past is None else past
        past.append((k, v))
        k, v = (torch.cat(t, 1) for t in zip(*past, strict=True))
        return self.head((q @ k.mT / 4).softmax(-1) @ v)


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


# -- one input, cut more than once ------------------------------------------------------------------------------------


class Mirrored(Convolved):
    """Test-time augmentation: the picture and its mirror image, averaged."""

    def forward(self, picture: Tensor) -> Tensor:
        return (super().forward(picture) + super().forward(picture.flip(-1))) / 2


class TwoSizes(nn.Module):
    """Patches of two sizes, as CrossViT has them; the second branch reads a part of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = Convolved(4), Convolved(6)

    def forward(self, picture: Tensor) -> Tensor:
        return self.fine(picture) + self.coarse(picture[..., :18])


class Shrunk(TwoSizes):
    """A second backbone that reads the picture at half its size."""

    def forward(self, picture: Tensor) -> Tensor:
        small = nn.functional.interpolate(picture, scale_factor=0.5, mode="bilinear")
        return self.fine(picture) + self.coarse(small)


def test_a_picture_and_its_mirror_image() -> None:
    """Both maps lie on the picture's own patches, and are added; what is counted at the input is counted once."""
    torch.manual_seed(0)
    net, x = Mirrored(4).eval(), torch.randn(2, 3, 16, 20)
    plain = Convolved(4).eval()
    plain.load_state_dict(net.state_dict())
    e, first, second = (
        regard.explain(m, {"picture": p}, 1).image_map() for m, p in ((net, x), (plain, x), (plain, x.flip(-1)))
    )
    torch.testing.assert_close(e, (first + second.flip(-1)) / 2)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    got = regard.explain(net, {"picture": x}, 1, "input_x_gradient").scores["picture"]
    torch.testing.assert_close(got, cells(g * x, 4, 4, 5).sum(-1), rtol=1e-4, atol=1e-6)


def test_patches_of_two_sizes() -> None:
    """A token's score is shared out among the cells that both sizes are made of; cells beyond a cut have none of it."""
    torch.manual_seed(0)
    net, x = TwoSizes().eval(), torch.randn(1, 3, 24, 24)
    e = regard.explain(net, {"picture": x}, 1)
    fine = regard.explain(net.fine, {"picture": x}, 1).image_map()
    coarse = regard.explain(net.coarse, {"picture": x[..., :18]}, 1).image_map()
    wanted = fine.repeat_interleave(2, 1).repeat_interleave(2, 2) / 4
    wanted[..., :9] += coarse.repeat_interleave(3, 1).repeat_interleave(3, 2) / 9
    assert e.grid["picture"] == (12, 12)
    torch.testing.assert_close(e.image_map(), wanted)


def test_a_picture_at_two_scales() -> None:
    """A resized picture's patches are those of the picture that it was made of, and the note says what is blended."""
    torch.manual_seed(0)
    net, x = Shrunk().eval(), torch.randn(1, 3, 24, 24)
    e = regard.explain(net, {"picture": x}, 1)
    assert e.grid["picture"] == (6, 6)  # patches of 12 pixels, and of 4
    assert any("interpolate" in n for n in e.receipt.notes)
    small = nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear")
    total = sum(
        regard.explain(m, {"picture": p}, 1).scores["picture"].sum() for m, p in ((net.fine, x), (net.coarse, small))
    )
    torch.testing.assert_close(e.scores["picture"].sum(), total)


# -- whole numbers ----------------------------------------------------------------------------------------------------


class Bytes(Convolved):
    """Pixels come as bytes, channels last, and the model scales them itself."""

    def forward(self, picture: Tensor) -> Tensor:
        return super().forward(picture.permute(0, 3, 1, 2).float() / 255)


class Drawing(Convolved):
    """Black and white: True and False."""

    def forward(self, picture: Tensor) -> Tensor:
        return super().forward(picture * 2.0 - 1.0)


class Counts(nn.Module):
    """Word counts of each sentence, (batch, sentence, word)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.body, self.head = nn.Linear(12, W), tiny(), nn.Linear(W, 3)

    def forward(self, counts: Tensor) -> Tensor:
        return self.head(self.body(self.enter(torch.log1p(counts.to(torch.float32)))).mean(1))


class Table(nn.Module):
    """Ids pick rows of a table: by an index, as JAX ports do, by a product with a one for each id, or by an embedding."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.words, self.body, self.head = how, nn.Parameter(torch.randn(30, W)), tiny(), nn.Linear(W, 3)

    def forward(self, ids: Tensor) -> Tensor:
        if self.how == "index":
            x = self.words[ids]
        elif self.how == "one hot":
            x = nn.functional.one_hot(ids, 30).to(self.words.dtype) @ self.words
        else:
            x = nn.functional.embedding(ids, self.words)
        return self.head(self.body(x).mean(1))


NUMBERS = [
    (lambda: Bytes(4), torch.randint(0, 256, (2, 16, 12, 3), dtype=torch.uint8), (4, 3)),
    (Counts, torch.randint(0, 5, (2, 6, 12)), None),
]


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


# -- grey pictures -----------------------------------------------------------------------------------------------------


class Grey(nn.Module):
    """Something is made of a picture's channels first; patches by a convolution, or flattened."""

    def __init__(self, first: Callable[[Grey, Tensor], Tensor], flattened: bool) -> None:
        super().__init__()
        self.first, self.flattened = first, flattened
        self.weights, self.mix = nn.Parameter(torch.rand(3)), nn.Conv2d(3, 1, 1)
        self.enter = nn.LazyLinear(W) if flattened else nn.LazyConv2d(W, 4, 4)
        self.body, self.head = tiny(), nn.Linear(W, 3)

    def forward(self, picture: Tensor) -> Tensor:
        x = self.first(self, picture)
        x = self.enter(cells(x, 4, x.shape[2] // 4, x.shape[3] // 4)) if self.flattened else self.enter(x).flatten(2).mT
        return self.head(self.body(x).mean(1))


GREYS: dict[str, Callable[[Grey, Tensor], Tensor]] = {
    "mean": lambda m, x: x.mean(1, keepdim=True),
    "mean of each pixel": lambda m, x: x.mean(1)[:, None],
    "largest": lambda m, x: x.amax(1, keepdim=True),
    "max": lambda m, x: x.max(1, keepdim=True).values,
    "length": lambda m, x: x.norm(dim=1, keepdim=True),
    "weights": lambda m, x: (x * m.weights[:, None, None]).sum(1, keepdim=True),
    "einsum": lambda m, x: torch.einsum("bchw,c->bhw", x, m.weights)[:, None],
    "a convolution": lambda m, x: m.mix(x),
    "luma": lambda m, x: (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])[:, None],
    "luma and saturation": lambda m, x: torch.stack([0.3 * x[:, 0] + 0.6 * x[:, 1] + 0.1 * x[:, 2],
                                                     x.amax(1) - x.amin(1)], 1),
    "less the grey": lambda m, x: x - x.mean(1, keepdim=True),
    "grey as a fourth": lambda m, x: torch.cat([x, x.mean(1, keepdim=True)], 1),
}  # fmt: skip


@pytest.mark.parametrize("flattened", [True, False])
@pytest.mark.parametrize("name", GREYS)
def test_channels_of_a_pixel_are_no_tokens(name: str, flattened: bool) -> None:
    """Nothing is told of mixing, and each token has what its own pixels of all channels make, by hand."""
    model, x = Grey(GREYS[name], flattened), noise(2, 3, 16, 12)
    model(x)
    model = strong(model)
    e, gae = regard.explain(model, {"picture": x}, 1, ["input_x_gradient", "gae"])
    assert e.grid == gae.grid == {"picture": (4, 3)}
    assert gae.receipt.notes == []
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    torch.testing.assert_close(e.scores["picture"], cells(x * g, 4, 4, 3).sum(-1), atol=1e-5, rtol=1e-4)
    proof = regard.verify(model, {"picture": x})
    assert proof
    assert (proof.mixed, proof.untested) == ([], [])


MIXED_PIXELS: dict[str, tuple[Callable[[Grey, Tensor], Tensor], str]] = {
    "brought to unit variance": (lambda m, x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True),
                                 "mean, std"),
    "less the mean of each channel": (lambda m, x: x - x.mean((2, 3), keepdim=True), "mean"),
    "less the mean of each row": (lambda m, x: x - x.mean(3, keepdim=True), "mean"),
    "blurred": (lambda m, x: (x + x.roll(1, 3)) / 2, "add of different tokens"),
    "blurred grey": (lambda m, x: x[:, :1] + x[:, 1:2] + x[:, 1:2].roll(4, 3), "add of different tokens"),
}  # fmt: skip


@pytest.mark.parametrize("flattened", [True, False])
@pytest.mark.parametrize("name", MIXED_PIXELS)
def test_pixels_of_several_patches_that_are_mixed_are_told(name: str, flattened: bool) -> None:
    first, says = MIXED_PIXELS[name]
    model, x = Grey(first, flattened), noise(2, 3, 16, 12)
    model(x)
    model = strong(model)
    notes = regard.explain(model, {"picture": x}, 1).receipt.notes
    assert notes == [f"tokens are mixed outside attention ({says}), which maps do not follow"]
    proof = regard.verify(model, {"picture": x})
    assert proof.contradictions == []
    assert [m.by for m in proof.mixed] == [says]


# -- shared inputs ----------------------------------------------------------------------------------------------------


class Match(nn.Module):
    """CLIP from scratch: a picture's tower, a text's tower, and the cosines of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.words = nn.Conv2d(3, W, 4, 4), nn.Embedding(40, W)
        self.sees, self.reads = tiny(), tiny()

    def forward(self, picture: Tensor, ids: Tensor) -> Tensor:
        a = self.sees(self.cut(picture).flatten(2).transpose(1, 2)).mean(1)
        b = self.reads(self.words(ids)).mean(1)
        return 5 * nn.functional.normalize(a, dim=-1) @ nn.functional.normalize(b, dim=-1).T


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


class Asked(nn.Module):
    """Questions that every sample is asked (Perceiver's and Q-Former's queries), as an input."""

    def __init__(self, spread: bool) -> None:
        super().__init__()
        self.spread, self.cross, self.head = spread, nn.MultiheadAttention(W, 4, batch_first=True), nn.Linear(W, 3)
        self.k, self.q = nn.Linear(W, W), nn.Linear(W, W)

    def forward(self, x: Tensor, questions: Tensor) -> Tensor:
        if self.spread:
            asked = questions.expand(len(x), -1, -1)
            return self.head((asked + self.cross(asked, x, x)[0]).mean(1))
        scores = self.q(questions) @ self.k(x).mT / 2
        return self.head((questions + scores.softmax(-1) @ x).mean(1))


@pytest.mark.parametrize("spread", [True, False], ids=["expanded", "broadcast"])
@pytest.mark.parametrize("method", ["gae", "input_x_gradient"])
def test_questions_that_all_samples_share(spread: bool, method: str) -> None:
    """As where each sample is given its own copy."""
    torch.manual_seed(0)
    net, x, questions = Asked(spread).eval(), torch.randn(3, 5, W), torch.randn(1, 2, W)
    e, f = (regard.explain(net, {"x": x, "questions": q}, 1, method) for q in (questions, questions.repeat(3, 1, 1)))
    for name in e.scores:
        torch.testing.assert_close(e.scores[name], f.scores[name], rtol=1e-4, atol=1e-6)


# -- grids ------------------------------------------------------------------------------------------------------------


class ChannelsLast(Convolved):
    """(batch, height, width, channel), as JAX and TensorFlow have pictures."""

    def forward(self, picture: Tensor) -> Tensor:
        return super().forward(picture.permute(0, 3, 1, 2))


class Frames(Convolved):
    """(batch, frame, channel, height, width): views, or frames of a film, patch by patch."""

    def forward(self, picture: Tensor) -> Tensor:
        x = self.cut(picture.flatten(0, 1)).flatten(2).transpose(1, 2)
        return self.head(self.body(x.unflatten(0, picture.shape[:2]).flatten(1, 2)).mean(1))


class Volume(nn.Module):
    """(batch, channel, depth, height, width), cut into blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.body, self.head = nn.Conv3d(1, W, (2, 4, 4), (2, 4, 4)), tiny(), nn.Linear(W, 3)

    def forward(self, picture: Tensor) -> Tensor:
        return self.head(self.body(self.cut(picture).flatten(2).transpose(1, 2)).mean(1))


GRIDS = [
    (lambda: ChannelsLast(4), (16, 24, 3), (4, 6), (0, 1)),
    (lambda: Frames(4), (2, 3, 8, 12), (2, 2, 3), (0, 2, 3)),
    (Volume, (1, 4, 8, 12), (2, 2, 3), (1, 2, 3)),
]


@pytest.mark.parametrize(("make", "shape", "grid", "axes"), GRIDS, ids=["channels last", "frames", "volume"])
def test_grids_of_other_layouts(make, shape, grid, axes, tmp_path) -> None:
    """Frames or slices, rows and columns; each token's score is that of its own elements, and a page shows every frame."""
    torch.manual_seed(0)
    net, x = make().eval(), torch.randn(2, *shape)
    e = regard.explain(net, {"picture": x}, 1, "input_x_gradient")
    assert e.grid == {"picture": grid}
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    whole = g * x
    for axis, n in sorted(zip(axes, grid, strict=True), reverse=True):
        whole = whole.unflatten(axis + 1, (n, -1)).movedim(axis + 2, -1)
    other = [d for d in range(1, whole.ndim) if d - 1 not in axes]
    torch.testing.assert_close(e.image_map(), whole.sum(other), rtol=1e-4, atol=1e-6)
    assert e.image_map((20, 30)).shape == (2, *grid[:-2], 20, 30)
    again = regard.Explanation.load(e.save(tmp_path / "map.safetensors"))
    assert again.grid == e.grid
    if len(grid) > 2:
        page = e.to_html(tmp_path / "page.html").read_text()
        assert "picture[0]" in page
        assert "picture[1]" in page


class Stack(Frames):
    """Pictures of nothing but zeros are padding: they are left out, as Idefics leaves them out."""

    def forward(self, picture: Tensor) -> Tensor:
        shown = picture[picture.flatten(2).any(-1)]
        return self.head(self.body(self.cut(shown).flatten(2).transpose(1, 2).reshape(1, -1, W)).mean(1))


def planes(x: np.ndarray, channel: int, of: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """Every row-by-column plane of pictures made anew, one by one; rows and columns are the last axes but the channels'."""
    out = np.moveaxis(x, channel, 0).copy()
    for at in np.ndindex(out.shape[:-2]):
        out[at] = of(out[at], at[0])
    return np.moveaxis(out, 0, channel)


STACKS = [
    (lambda: ChannelsLast(4), (16, 24, 3), 3),
    (lambda: Frames(4), (2, 3, 8, 12), 2),
    (lambda: Frames(4), (1, 3, 8, 12), 2),
    (Volume, (1, 4, 8, 12), 1),
]


@pytest.mark.parametrize(("make", "shape", "channel"), STACKS, ids=["channels last", "frames", "one frame", "volume"])
def test_baselines_of_stacks_of_pictures(make, shape, channel) -> None:
    """Black, white and blurred plane by plane; the mean is that of all planes of a channel."""
    torch.manual_seed(0)
    net, x = make().eval(), torch.randn(2, *shape) + torch.arange(2.0).view(2, *[1] * len(shape))
    x = x.double().numpy()
    count = x.shape[channel]
    mean, std = [0.5, 0.4, 0.3][:count], [0.2, 0.1, 0.3][:count]

    def flat(value: Callable[[np.ndarray, int], float]) -> np.ndarray:
        return np.stack([planes(one, channel - 1, lambda p, c, one=one: np.full_like(p, value(one, c))) for one in x])

    def own_mean(one: np.ndarray, c: int) -> float:
        return float(np.take(one, c, channel - 1).mean())

    literal = {
        Baseline.black(mean, std): flat(lambda _, c: -mean[c] / std[c]),
        Baseline.white(mean, std): flat(lambda _, c: (1 - mean[c]) / std[c]),
        Baseline.mean(): flat(own_mean),
        Baseline.blur(1.5): planes(x, channel, lambda p, _: gaussian_filter(p, 1.5, mode="nearest", truncate=3.0)),
    }
    for baseline, x0 in literal.items():
        receipt = regard.explain(net, {"picture": torch.from_numpy(x).float()}, 1, "taylor", baseline=baseline).receipt
        with torch.no_grad():
            expected = net(torch.from_numpy(x0).float())[:, 1]
        torch.testing.assert_close(receipt.baseline_value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["black", "mean", "blur", "noise"])
def test_pictures_that_are_padding_stay_padding_in_a_baseline(kind: str) -> None:
    torch.manual_seed(0)
    net, x = Stack(4).eval(), torch.randn(1, 2, 3, 8, 12)
    baseline = {"black": Baseline.black([0.5] * 3, [0.2] * 3), "mean": Baseline.mean(), "blur": Baseline.blur(2)}.get(
        kind, Baseline.noise()
    )
    padded = torch.cat([x, torch.zeros(1, 1, 3, 8, 12)], 1)
    one, other = (
        regard.explain(net, {"picture": p}, 1, "integrated_gradients", baseline=baseline, steps=2) for p in (x, padded)
    )
    assert not other.scores["picture"][:, 12:].any()
    if kind != "noise":  # drawn anew for another input
        torch.testing.assert_close(other.receipt.baseline_value, one.receipt.baseline_value)
        torch.testing.assert_close(other.scores["picture"][:, :12], one.scores["picture"])


def test_a_stack_whose_channels_are_not_known_has_no_colour() -> None:
    """Two frames that are read together are one token deep: nothing tells them from two channels."""
    torch.manual_seed(0)
    net, x = Volume().eval(), torch.randn(1, 2, 2, 8, 12)
    net.cut = nn.Conv3d(2, W, (2, 4, 4), (2, 4, 4)).eval()
    for baseline in (Baseline.mean(), Baseline.black(0.5, 0.2)):
        with pytest.raises(Misuse, match=r"which axis of 'picture' .* has the channels is not known"):
            regard.explain(net, {"picture": x}, 1, "taylor", baseline=baseline)
    assert (
        regard.explain(net, {"picture": x}, 1, "taylor", baseline=Baseline.blur(2)).receipt.baseline == "blur, sigma 2"
    )


class Blocks(nn.Module):
    """Patches of all pictures in one row, block by block, and each picture's grid (Qwen2-VL's way, from scratch)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.body, self.words = nn.Linear(12, W), tiny(), nn.Embedding(40, W)
        self.head = nn.Linear(W, 3)
        self.config = type("Config", (), {"vision_config": type("Vision", (), {"spatial_merge_size": 2})()})()

    def forward(self, input_ids: Tensor, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
        x = self.words(input_ids)
        place = (input_ids == 5)[..., None].expand(x.shape)
        return self.head(self.body(x.masked_scatter(place, self.enter(pixel_values))).mean(1))


@pytest.mark.parametrize("sizes", [[(1, 4, 6)], [(1, 4, 6), (1, 2, 4)], [(2, 2, 4)]], ids=["one", "two", "film"])
def test_pictures_of_any_size_in_one_row(sizes, tmp_path) -> None:
    """Scores stay in the input's order; maps are row by row, as the grids say."""
    torch.manual_seed(0)
    count = sum(t * h * w for t, h, w in sizes)
    ids = torch.tensor([[7] + [5] * count + [8]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(count, 12), "image_grid_thw": torch.tensor(sizes)}
    e = regard.explain(Blocks().eval(), inputs, 1)
    grids = [(h, w) if t == 1 else (t, h, w) for t, h, w in sizes]
    assert e.grid == {"pixel_values": grids[0] if len(grids) == 1 else grids}
    assert e.receipt.notes == []
    first = 0
    for (t, h, w), found in zip(sizes, e.cells("pixel_values"), strict=True):
        for f, i, j in [(f, i, j) for f in range(t) for i in range(h) for j in range(w)]:
            block = (i // 2) * (w // 2) + j // 2
            token = first + f * h * w + block * 4 + (i % 2) * 2 + j % 2
            assert found.reshape(t, h, w)[f, i, j] == e.scores["pixel_values"][0, token]
            if t == 1:
                place = {"row": i, "column": j}
                assert place.items() <= e.place_of("pixel_values", token).items()
        first += t * h * w
    again = regard.Explanation.load(e.save(tmp_path / "map.safetensors"))
    assert again.grid == e.grid
    assert again.rasters == e.rasters
    assert len(e.image_map((8, 8))) == len(sizes)
    e.plot(tmp_path / "map.png")
    assert "pixel_values" in e.to_html(tmp_path / "page.html").read_text()


def test_patches_in_blocks_are_put_together_again() -> None:
    """What a processor of Qwen-VL's kind cut is the picture, row by row."""
    from regard.models.geometry import from_patches

    class Processor:
        patch_size, temporal_patch_size, merge_size = 2, 2, 2

    picture = torch.randn(3, 8, 12)
    cut = picture.unflatten(1, (2, 2, 2)).unflatten(4, (3, 2, 2))  # channel, block, row, pixel, block, column, pixel
    cut = cut.permute(1, 4, 2, 5, 0, 3, 6)[..., None, :, :].expand(-1, -1, -1, -1, -1, 2, -1, -1)
    torch.testing.assert_close(from_patches(cut.reshape(24, -1), (4, 6), Processor()), picture)


def tiled(image) -> Tensor:
    """A processor of SmolVLM's kind: four tiles of a picture of 32 x 32 pixels, and the whole of it at half the size."""
    import numpy as np

    large = torch.from_numpy(np.array(image.resize((32, 32)))).permute(2, 0, 1) / 255.0
    small = torch.from_numpy(np.array(image.resize((16, 16)))).permute(2, 0, 1) / 255.0
    parts = [large[:, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16] for i in range(2) for j in range(2)]
    return torch.stack([*parts, small])


def test_tiles_of_a_picture_lie_on_the_original(tmp_path) -> None:
    """Each tile's map lies where the tile was cut, the small whole over all; a page shows one picture."""
    pytest.importorskip("PIL")
    from regard.report.view import view_of

    torch.manual_seed(0)
    reader = regard.load(Frames(4).eval(), processor=tiled)
    pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    e = reader.explain(pixels, 1)
    assert e.grid == {"picture": (5, 4, 4)}
    assert e.receipt.notes == []
    (picture,) = e.inputs["picture"]
    wanted = [(0, 0, 32, 32), (32, 0, 64, 32), (0, 32, 32, 64), (32, 32, 64, 64), (0, 0, 64, 64)]
    torch.testing.assert_close(torch.tensor(picture.tiles), torch.tensor(wanted, dtype=torch.float32), atol=1.0, rtol=0)
    e.scores["picture"] = torch.zeros(1, 80)
    e.scores["picture"][0, 16 + 2 * 4 + 1] = 1.0  # tile 1 (above, right), row 2, column 1
    (drawn,) = e.on_original()
    row, column = divmod(int(drawn.argmax()), 64)
    assert abs(row - 19.5) <= 1
    assert abs(column - (32 + 11.5)) <= 1
    again = regard.Explanation.load(e.save(tmp_path / "map.safetensors"))
    torch.testing.assert_close(again.on_original()[0], drawn)
    assert len(view_of(e).panels) == 1
    e.plot(tmp_path / "map.png")
