"""Pictures of any size and layout: their cells, their grids, their baselines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

import regard
from regard import Baseline
from regard.errors import Misuse
from support.odd_inputs import (
    GRIDS,
    NO_MULTIPLE,
    Blocks,
    ChannelsLast,
    Convolved,
    Frames,
    Mirrored,
    Rearranged,
    Shrunk,
    Stack,
    TwoSizes,
    Volume,
    W,
    tiny,
)
from support.tiny import noise, strong


def cells(t: Tensor, patch: int, rows: int, columns: int) -> Tensor:
    """(batch, channel, height, width) -> (batch, token, element), patch by patch."""
    found = [
        t[:, :, patch * i : patch * (i + 1), patch * j : patch * (j + 1)] for i in range(rows) for j in range(columns)
    ]
    return torch.stack([c.flatten(1) for c in found], 1)


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


# -- one input, cut more than once ------------------------------------------------------------------------------------


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


# -- grids ------------------------------------------------------------------------------------------------------------


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
        with pytest.raises(Misuse, match=r"not clear which axis of 'picture' .* holds the channels"):
            regard.explain(net, {"picture": x}, 1, "taylor", baseline=baseline)
    assert (
        regard.explain(net, {"picture": x}, 1, "taylor", baseline=Baseline.blur(2)).receipt.baseline == "blur, sigma 2"
    )


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
