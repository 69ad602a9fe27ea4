"""External guidance by a second class (arXiv 2605.11392; formulas.md section 4): another picture on the canvas of the first.

Our reading. What the model sees of each picture is made smaller, by one factor both ways where patches allow it, until both
stand side by side on a canvas of the model's input size, each on whole patches; what is left over is 0 in normalised space,
the mean colour. Or the second is blended half and half into a region of the first. Then y_c, y_e and y_c − y_e are explained
on the canvas, and the map of y_c − y_e where the first picture lies is the map on that picture's own tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from regard.api.explain import explain_reading
from regard.editing.asked import Classifier
from regard.errors import InputError, Misuse, ModelError
from regard.explanation.causal_test import LateTest
from regard.explanation.explanation import Explanation
from regard.explanation.places import PLAINLY, WHOLE
from regard.explanation.raw_inputs import Picture, Reading
from regard.explanation.token_rows import TokenRows
from regard.explanation.told import Box, Told
from regard.explanation.transfer import LateTransfer
from regard.guide import Guide, Second
from regard.head import head_of
from regard.models.pictures import ReadPicture
from regard.models.reading import READS, RawReader
from regard.recording.ambient import our_own
from regard.recording.inputs import Inputs
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.target import Target

MIX = 0.5
"""The share of the second picture where it is blended into the first."""
PART = "these tokens are a part of a canvas with another picture on it; ask the explanation of the canvas, {}, instead"
CellSpan = tuple[int, int, int, int]
"""Rows and columns of patches: (first row, first column, rows, columns)."""
Pixels = Float[Tensor, "1 channel row column"]
Part = Float[Tensor, "1 channel high wide"]
TargetOf = Callable[[int], Any]
Contrast = Callable[[int, int], Target]


@dataclass(frozen=True)
class SharedCanvas:
    """Two pictures on one: its tensor, which patches each has, and the size of a patch (rows, columns of pixels).

    blended: the second lies in the first, which fills the canvas.
    """

    x: Pixels
    cells: tuple[CellSpan, CellSpan]
    patch: tuple[int, int]
    blended: bool = False

    def box(self, i: int) -> Box:
        """Where a picture lies, in pixels of the canvas."""
        top, left, rows, columns = self.cells[i]
        high, wide = self.patch
        return float(left * wide), float(top * high), float((left + columns) * wide), float((top + rows) * high)


@dataclass(frozen=True)
class TwoPictures:
    """Two pictures, the classes that they are asked for, what turns classes into targets, and what to know of the pictures."""

    reader: RawReader
    readings: tuple[Reading, Reading]
    classes: tuple[int, int]
    chances: tuple[Tensor, Tensor]
    target: TargetOf
    contrast: Contrast
    notes: Sequence[str]

    @property
    def stream(self) -> str:
        """The model's input that is the picture."""
        return self.reader.stream

    def picture(self, i: int) -> Picture:
        """One of the two."""
        return cast(Picture, self.readings[i].raw[self.stream][0])

    def x(self, i: int) -> Pixels:
        """What the model is given of one of the two."""
        return self.readings[i].inputs[self.stream]

    def named(self, c: int) -> str:
        """What a class is called."""
        return self.reader.labels[c] if c < len(self.reader.labels) else f"class {c}"


def tell_apart(
    reader: RawReader,
    raw: Any,
    wanted: int | None,
    guide: Guide,
    methods: Sequence[str],
    target: TargetOf,
    contrast: Contrast,
    **options: Any,
) -> list[Told]:
    """What tells the class of a picture from that of the guide's picture, by each method.

    wanted: the class of the first picture; None: the predicted one. `target`, `contrast`: what makes a target of a class, and
    of two. Raises ModelError for a model that does not say what one picture of three channels shows, Misuse for equal classes.
    """
    refuse(reader.model, bool(options.get("training")))
    second = cast(Second, guide.value)
    asked = _asked(reader, raw, wanted, second, target, contrast)
    c, e = asked.classes
    alone = _explained(asked, asked.readings[0], [asked.target(c)], methods, options)
    canvas, *_ = [_canvas(asked, one[0], second) for one in alone]
    whole = _reading(asked, canvas)
    targets = [asked.target(c), asked.target(e), asked.contrast(c, e), asked.contrast(e, c)]
    chances = torch.stack([*asked.chances, _chances(reader.model, whole, asked.stream)])
    both = _explained(asked, whole, targets, methods, options)
    return [_told(asked, canvas, chances, one[0], maps) for one, maps in zip(alone, both, strict=True)]


def _asked(
    reader: RawReader, raw: Any, wanted: int | None, second: Second, target: TargetOf, contrast: Contrast
) -> TwoPictures:
    if reader.kind != "image":
        raise ModelError(
            f"a second picture guides models that say what a picture shows; {type(reader.model).__name__} reads "
            f"{READS[reader.kind]}"
        )
    raws = raw if isinstance(raw, list) else [raw]
    if len(raws) != 1:
        raise InputError(
            f"a second picture is put beside one picture, and {len(raws)} were given; give them one by one"
        )
    given = [ReadPicture.of(one, i) for i, one in enumerate((raws[0], second.picture))]
    first, other = (_read(reader, one) for one in given)
    chances = tuple(_chances(reader.model, r, reader.stream) for r in (first, other))
    c = int(chances[0].argmax()) if wanted is None else wanted
    e = second.target
    e = int(chances[1].argmax()) if e is None else int(e)
    for one in (c, e):
        if not 0 <= one < len(chances[0]):
            raise Misuse(f"there is no class {one}; the model has {len(chances[0])}, numbered from 0")
    notes = [note for one in given for note in one.notes]
    made = TwoPictures(reader, (first, other), (c, e), cast(tuple[Tensor, Tensor], chances), target, contrast, notes)
    if c == e:
        raise Misuse(
            f"both pictures are asked for {made.named(c)}, so there is nothing to tell apart; name the class of the second one "
            "with Guide.picture(path, target=...), or with against="
        )
    return made


def _read(reader: RawReader, given: ReadPicture) -> Reading:
    """One picture with its name. Raises ModelError where the model is given anything but its pixels."""
    pixels, name, _ = given
    reading, _ = reader.read_noted([pixels], False)
    x = reading.inputs[reader.stream]
    if x.ndim != 4 or x.shape[1] != 3:
        raise ModelError(
            f"a second picture is put on the canvas of one picture of three channels, and {type(reader.model).__name__} reads "
            f"{tuple(x.shape)}: pictures that are cut into patches or tiles have no such canvas"
        )
    picture = replace(cast(Picture, reading.raw[reader.stream][0]), name=name)
    return replace(reading, raw={reader.stream: [picture]})


def _chances(model: nn.Module, reading: Reading, stream: str) -> Float[Tensor, " class"]:
    """The probabilities of all classes. Raises ModelError where there are none."""
    with rng_kept(model) as rng, our_own():
        asked = Classifier(model, Inputs.of(model, reading.inputs), stream, rng[0])
        with torch.enable_grad():
            scores = asked.scores(asked.picture.detach().requires_grad_())
    head = head_of(model, scores) if scores.ndim == 2 else None
    if head is None or head.no_class or head.one:
        name = type(model).__name__
        raise ModelError(
            f"a second picture needs a model that takes a picture for one of several classes; {name} does not"
        )
    return head.probability(scores.detach(), log=False)[0].float().cpu()


def _told(
    asked: TwoPictures,
    canvas: SharedCanvas,
    chances: Float[Tensor, "picture class"],
    alone: Explanation,
    maps: list[Explanation],
) -> Told:
    """The maps by one method: of the first picture alone, and of y_c, y_e, y_c − y_e and y_e − y_c on the canvas."""
    c, e = asked.classes
    of_c, of_e, difference, against = maps
    on_c, on_e, guided = (_on_first(asked, canvas, one) for one in (of_c, of_e, difference))
    told = Told(
        c=asked.named(c), e=asked.named(e), method=alone.method, first=asked.picture(0), second=asked.picture(1),
        composite=cast(Picture, difference.inputs[asked.stream][0]), places=(canvas.box(0), canvas.box(1)),
        within=canvas.blended, alone=alone, of_c=of_c, of_e=of_e, difference=difference,
        against=None if alone.signed else against, guided=guided, on_first=(on_c, on_e), probabilities=chances[:, [c, e]],
        predicted=cast(tuple[str, str, str], tuple(asked.named(int(p.argmax())) for p in chances)),
    )  # fmt: skip
    guided.receipt.notes += [
        f"another picture was explained: {told.first.name} with {told.second.name} on one canvas", *_answers(told),
        *asked.notes,
    ]  # fmt: skip
    guided.told = told
    return told


def _answers(told: Told) -> list[str]:
    """What the model says of each picture alone, and of both."""
    named = (told.first.name, told.second.name, "the canvas")
    rows = zip(named, told.predicted, told.probabilities.tolist(), strict=True)
    return [f"{name} is taken for {p}: {told.c} {100 * a:.3g} %, {told.e} {100 * b:.3g} %" for name, p, (a, b) in rows]


def _explained(
    asked: TwoPictures, reading: Reading, targets: list[Any], methods: Sequence[str], options: dict[str, Any]
) -> list[list[Explanation]]:
    """The explanations of all targets, method by method."""
    found = cast(list[Explanation], explain_reading(asked.reader.model, reading, targets, [*methods], **options))
    return [found[i : i + len(targets)] for i in range(0, len(found), len(targets))]


# -- the canvas --------------------------------------------------------------------------------------------------------


def _canvas(asked: TwoPictures, alone: Explanation, second: Second) -> SharedCanvas:
    """Both pictures on one."""
    rows, columns = _grid(asked, alone)
    x, e = asked.x(0), asked.x(1)
    patch = x.shape[-2] // rows, x.shape[-1] // columns
    if second.within is not None:
        cells = _region(asked, second.within, rows, columns)
        return SharedCanvas(_blended(x, e, cells, patch), ((0, 0, rows, columns), cells), patch, blended=True)
    left, right = side_by_side(rows, columns)
    out = torch.zeros_like(x)
    for picture, cells in ((x, left), (e, right)):
        _inside(out, cells, patch).copy_(_scaled(picture, cells, patch))
    return SharedCanvas(out, (left, right), patch)


def _grid(asked: TwoPictures, alone: Explanation) -> tuple[int, int]:
    """Rows and columns of the picture's patches. Raises ModelError where they do not cover it one beside the other."""
    grid, raster = alone.grid.get(asked.stream), alone.raster(asked.stream)
    if not isinstance(grid, tuple) or len(grid) != 2 or raster != PLAINLY or raster.window != WHOLE or grid[1] < 2:
        raise ModelError(
            f"a second picture needs a canvas of whole patches, and the map of {asked.stream!r} here has "
            f"{'no grid of them' if grid is None else f'the grid {grid}'}; choose a method whose map is of patches"
        )
    if asked.x(0).shape[-2] % grid[0] or asked.x(0).shape[-1] % grid[1]:
        raise ModelError(
            f"the patches ({grid[0]} x {grid[1]}) do not divide the model's picture ({tuple(asked.x(0).shape[-2:])})"
        )
    return grid[0], grid[1]


def side_by_side(rows: int, columns: int) -> tuple[CellSpan, CellSpan]:
    """The patches of two pictures of a canvas's own proportions, halved: left and right, in the middle of its height."""
    wide = columns // 2
    high = max(1, min(rows, round(rows * wide / columns)))
    top = (rows - high) // 2
    return (top, 0, high, wide), (top, columns - wide, high, wide)


def _region(asked: TwoPictures, box: Box, rows: int, columns: int) -> CellSpan:
    """The patches that a box of the first picture touches. Raises Misuse for one that the model does not see."""
    left, top, right, bottom = asked.picture(0).box
    across, down = (right - left) / columns, (bottom - top) / rows
    first = max(0, int((box[1] - top) // down)), max(0, int((box[0] - left) // across))
    last = min(rows, -int((top - box[3]) // down)), min(columns, -int((left - box[2]) // across))
    if last[0] <= first[0] or last[1] <= first[1]:
        raise Misuse(f"the region {box} lies outside of what the model sees of {asked.picture(0).name}")
    return first[0], first[1], last[0] - first[0], last[1] - first[1]


def _blended(x: Pixels, e: Pixels, cells: CellSpan, patch: tuple[int, int]) -> Pixels:
    """The first picture with the second one half seen through a region."""
    out = x.clone()
    there = _inside(out, cells, patch)
    there.copy_((1 - MIX) * there + MIX * _scaled(e, cells, patch))
    return out


def _inside(x: Pixels, cells: CellSpan, patch: tuple[int, int]) -> Part:
    """The pixels of some patches, as a view."""
    (top, left, rows, columns), (high, wide) = cells, patch
    return x[..., top * high : (top + rows) * high, left * wide : (left + columns) * wide]


def _scaled(x: Pixels, cells: CellSpan, patch: tuple[int, int]) -> Part:
    """A picture at the size of some patches."""
    size = cells[2] * patch[0], cells[3] * patch[1]
    return F.interpolate(x.float(), size, mode="bilinear", antialias=True).to(x.dtype)


def _reading(asked: TwoPictures, canvas: SharedCanvas) -> Reading:
    """The canvas as a reader would have read it."""
    first = asked.readings[0]
    pixels = _drawn(canvas.x[0].float().cpu(), first)
    height, width = pixels.shape[:2]
    name = f"{asked.picture(0).name} + {asked.picture(1).name}"
    picture = Picture(pixels, (0.0, 0.0, float(width), float(height)), name)
    return replace(first, inputs=first.inputs | {asked.stream: canvas.x}, raw={asked.stream: [picture]})


def _drawn(x: Float[Tensor, "channel row column"], of: Reading) -> Any:
    """Normalised numbers as 8-bit RGB; where the normalisation is not known, from the smallest to the largest."""
    if of.mean is not None and of.std is not None:
        levels = x * torch.tensor(of.std)[:, None, None] + torch.tensor(of.mean)[:, None, None]
    else:
        levels = (x - x.min()) / (x.max() - x.min()).clamp(min=1e-12)
    return (255 * levels).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()


def _on_first(asked: TwoPictures, canvas: SharedCanvas, whole: Explanation) -> Explanation:
    """The part of a map of the canvas where the first picture lies, as a map of that picture."""
    (top, left, rows, columns), name = canvas.cells[0], asked.stream
    part = whole.cells(name)[0][top : top + rows, left : left + columns]
    receipt = copy.copy(whole.receipt)
    receipt.causal = []  # it was of the canvas
    receipt.notes = [*whole.receipt.notes, "sums on the receipt are of the whole canvas"]
    return replace(
        whole,
        scores=whole.scores | {name: part.reshape(1, -1)},
        grid=whole.grid | {name: (rows, columns)},
        inputs={name: [asked.picture(0)]},
        receipt=receipt,
        _token_rows=TokenRows(refused=PART.format("told.difference")),
        _transfer=LateTransfer(refused=PART.format("told.difference")),
        late_test=LateTest(refused=PART.format("told.difference")),
    )


__all__ = ["SharedCanvas", "TwoPictures", "side_by_side", "tell_apart"]
