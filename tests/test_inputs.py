"""Inputs as they are: pictures of any size and layout, whole numbers, nested inputs, shared ones, caches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import regard

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
