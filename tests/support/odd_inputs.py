"""Models that take their inputs in unusual ways: other layouts, containers, caches, whole numbers, shared inputs."""

from __future__ import annotations

import warnings
from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

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


NO_MULTIPLE = [
    (lambda: Convolved(6), (20, 26), 6),
    (lambda: Rearranged(5), (17, 23), 5),
    (Stemmed, (18, 15), 4),
]

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


# -- the samples' axis ------------------------------------------------------------------------------------------------


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


class Stack(Frames):
    """Pictures of nothing but zeros are padding: they are left out, as Idefics leaves them out."""

    def forward(self, picture: Tensor) -> Tensor:
        shown = picture[picture.flatten(2).any(-1)]
        return self.head(self.body(self.cut(shown).flatten(2).transpose(1, 2).reshape(1, -1, W)).mean(1))


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
