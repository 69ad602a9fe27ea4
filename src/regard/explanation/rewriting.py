"""A rewriting: pictures changed so little that nobody sees it, so that a model names another class; and what that took."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8, jaxtyped
from torch import Tensor

from regard.errors import Misuse
from regard.explanation import display
from regard.explanation.files import file_of, unpacked
from regard.explanation.loading import Damaged, loading, newer, of_file
from regard.explanation.raw_inputs import Picture
from regard.explanation.writing import write_atomically

FORMAT = "regard-rewriting-1"
MAPS = ("before, old class", "before, new class", "after, old class", "after, new class")
"""What `maps` are of, in order."""
Rows = Float[Tensor, "batch class"]
Pixels8 = UInt8[Tensor, "height width 3"]


@dataclass
class Rewriting:
    """Pictures of one batch, each rewritten to another class.

    Attributes:
        stream: the model's input that is the picture.
        was, to: the class before, and the one asked for, of each picture. keep: the one that was to stay beside it, or None.
        success: whether the model's first class is `to` (with `keep`: and its second `keep`). Of a picture that a reader read:
            whether it is when the 8-bit file is read again.
        norm, budget, minimal: what was allowed, in pixels, and whether the smallest change was sought within it.
        linf, l2: the size of each change, in pixels (fractions of 1 where pixels lie between 0 and 1).
        psnr: peak signal-to-noise ratio in decibels; infinite where nothing was changed. ssim: structural similarity by
            scikit-image, or None where it is not installed.
        probabilities_before, probabilities: of all classes, before and after.
        queries: how often the model was asked about each picture, one forward and one gradient each time.
        original, pixels: before and after, (batch, channel, row, column), within low to high. inputs: what the model is given
            after: `pixels`, normalised.
        within: where pixels were allowed to change, (batch, row, column); None: everywhere.
        maps: corrected attention of the old and of the new class, before and after (the order of `MAPS`), (batch, 4, rows,
            columns); None where the model has no attention that can be followed, or none were asked for.
        before, after: of pictures that a reader read: as 8-bit RGB, and as it is written to a file. boxes: the part (left, top,
            right, bottom) of each that the model sees.
        labels: names of classes. names: of the pictures. notes: what else there is to know.
    """

    stream: str
    was: Int[Tensor, " batch"]
    to: Int[Tensor, " batch"]
    keep: Int[Tensor, " batch"] | None
    success: Bool[Tensor, " batch"]
    norm: str
    budget: float
    minimal: bool
    linf: Float[Tensor, " batch"]
    l2: Float[Tensor, " batch"]
    psnr: Float[Tensor, " batch"]
    ssim: Float[Tensor, " batch"] | None
    probabilities_before: Rows
    probabilities: Rows
    queries: Int[Tensor, " batch"]
    original: Float[Tensor, "batch channel row column"]
    pixels: Float[Tensor, "batch channel row column"]
    inputs: Float[Tensor, "batch channel row column"]
    low: float
    high: float
    within: Bool[Tensor, "batch row column"] | None = None
    maps: Float[Tensor, "batch 4 rows columns"] | None = None
    before: list[Pixels8] = field(default_factory=list)
    after: list[Pixels8] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def batch(self) -> int:
        """How many pictures there are."""
        return len(self.to)

    @property
    def probability(self) -> Float[Tensor, " batch"]:
        """The probability of the new class after."""
        return self.probabilities.gather(1, self.to[:, None])[:, 0]

    @property
    def predicted(self) -> Int[Tensor, " batch"]:
        """The first class after."""
        return self.probabilities.argmax(1)

    def label(self, c: int | Tensor) -> str:
        """What a class is called."""
        c = int(c)
        return self.labels[c] if 0 <= c < len(self.labels) else f"class {c}"

    def png(self, sample: int = 0) -> bytes:
        """The rewritten picture as an 8-bit PNG file. Raises Misuse where it was no picture read by a reader."""
        if not 0 <= sample < len(self.after):
            raise Misuse(f"there is no file of picture {sample}: only a reader's pictures can be written")
        return png_of(self.after[sample])

    def shown(self, sample: int = 0) -> tuple[Picture, Picture]:
        """One picture before and after as they can be drawn, with the part that the model sees.

        Raises Misuse for pictures of other than one or three channels.
        """
        if self.after:
            left, top, right, bottom = self.boxes[sample]
            box = (float(left), float(top), float(right), float(bottom))
            before, after = self.before[sample], self.after[sample]
        else:
            before, after = (
                self._drawn((x[sample] - self.low) / (self.high - self.low)) for x in (self.original, self.pixels)
            )
            box = (0.0, 0.0, float(before.shape[1]), float(before.shape[0]))
        name = self.names[sample] if sample < len(self.names) else f"picture {sample}"
        return Picture(before, box, name), Picture(after, box, name)

    def difference(self, sample: int = 0) -> tuple[Pixels8, float]:
        """The change made visible, grey where there is none, and how many times larger than it is it is drawn."""
        delta = (self.pixels - self.original)[sample].float().cpu() / (self.high - self.low)
        most = float(self.linf[sample]) / (self.high - self.low)
        factor = 127 / 255 / most if most else 1.0
        return self._drawn(128 / 255 + factor * delta), factor

    def _drawn(self, x: Float[Tensor, "channel row column"]) -> Pixels8:
        """Numbers from 0 to 1 as an 8-bit picture."""
        if len(x) not in (1, 3):
            raise Misuse(f"a picture of {len(x)} channels cannot be drawn; only of one or three")
        levels = (255 * x.float().cpu()).round().clamp(0, 255).to(torch.uint8)
        return levels.expand(3, -1, -1).permute(1, 2, 0).contiguous()

    def plot(self, path: str | os.PathLike[str] | None = None, sample: int = 0) -> Any:
        """Draw one picture, before and after, with maps (needs `regard[viz]`); return the Figure, write it if `path`."""
        return display.plot_rewriting(self, path, sample)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`)."""
        return display.write_rewriting(self, path)

    def __str__(self) -> str:
        return "\n".join(self._line(i) for i in range(self.batch))

    def _line(self, i: int) -> str:
        kept = "" if self.keep is None else f", with {self.label(self.keep[i])!r} kept"
        done = "rewritten" if bool(self.success[i]) else "not rewritten"
        name = f"{self.names[i]}: " if i < len(self.names) else ""
        size = f"L∞ {shown(self.linf[i], self)}, L2 {float(self.l2[i]):.3g}, {float(self.psnr[i]):.1f} dB"
        before, after = float(self.probabilities_before[i, self.to[i]]), float(self.probability[i])
        return (
            f"{name}{done} from {self.label(self.was[i])!r} to {self.label(self.to[i])!r}{kept} "
            f"(probability {before:.3g} -> {after:.3g}); {size}; {int(self.queries[i])} queries"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file (tensors; everything else as JSON in its header), atomically."""
        tensors: dict[str, Tensor] = {}
        header: dict[str, Any] = {"inputs": {}}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                tensors[f.name] = value.detach().cpu().contiguous()
            elif f.name in ("before", "after"):
                tensors |= {f"{f.name}/{i}": t.cpu().contiguous() for i, t in enumerate(value)}
            else:
                header[f.name] = value
        return write_atomically(path, file_of(FORMAT, header, tensors))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Rewriting:
        """Read what `save` wrote. Raises InputError for a file that is missing or is not one of ours."""
        header, tensors, _ = unpacked(path, FORMAT, "rewriting")
        with loading(path) as unknown, jaxtyped("context"):
            files = {
                side: [tensors[f"{side}/{i}"] for i in range(_count(tensors, side))] for side in ("before", "after")
            }
            whole = {k: v for k, v in tensors.items() if "/" not in k}
            values = {k: v for k, v in header.items() if k not in ("inputs", *whole)}
            values["boxes"] = [(int(a), int(b), int(c), int(d)) for a, b, c, d in values["boxes"]]
            made = of_file(cls, values, **(whole | files))
            made.notes += newer(unknown)
            if not len(made.before) == len(made.after) == len(made.boxes) or len(made.boxes) not in (0, made.batch):
                raise Damaged(f"it holds {len(made.before)} pictures, {len(made.after)} rewritten, of {made.batch}")
            return made


def _count(tensors: dict[str, Tensor], side: str) -> int:
    return sum(name.startswith(f"{side}/") for name in tensors)


def shown(size: Tensor | float, of: Rewriting) -> str:
    """A size of pixels in words: as so many of 255 where pixels lie between 0 and 1."""
    value = float(size)
    return f"{round(255 * value, 2):g}/255" if (of.low, of.high) == (0, 1) else f"{value:.3g}"


def png_of(pixels: Pixels8) -> bytes:
    """Pixels as a PNG file: the same bytes for the same pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


__all__ = ["MAPS", "Rewriting", "png_of", "shown"]
