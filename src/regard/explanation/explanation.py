"""The answer: scores per token stream, the raw input they belong to, and the receipt.

Nothing here knows how scores were computed. Files are safetensors with JSON in the header: no pickle, safe to open.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from regard.errors import InputError, Misuse, nearest
from regard.explanation.boxes import Box, Found, painted
from regard.explanation.spans import Groups, grouped
from regard.explanation.token_rows import Between, tokens_asked

FORMAT = "regard-explanation-1"


@dataclass(frozen=True)
class Picture:
    """A raw picture: RGB `pixels`, and the `box` (left, top, right, bottom; in its pixels) that the model saw of it.

    `regions`: the boxes that the tokens stand for, one each, where they are no grid. `tiles`: the boxes of the tiles that the
    model saw it as, where it is cut into such (the whole of it, small, among them); each has a grid of tokens.
    """

    pixels: UInt8[Tensor, "height width 3"]
    box: tuple[float, float, float, float]
    name: str = "picture"
    regions: tuple[Box, ...] = ()
    tiles: tuple[tuple[float, float, float, float], ...] = ()


WHOLE = (0.0, 0.0, 1.0, 1.0)
Grid = tuple[int, ...] | list[tuple[int, ...]]
"""Rows and columns of a picture's tokens, after frames, views or slices where there are such; or those of each of several
pictures in one row of tokens."""


@dataclass(frozen=True)
class Raster:
    """How the tokens of a picture's stream lie on its grid, where that is not cell by cell over the whole of it.

    `window` (left, top, right, bottom; shares of the picture that the model reads) is what the cells cover: of a picture that
    is no multiple of its patch, not all; the rest counts with the last cells. `order`: the token at each place of the grid,
    of one picture after the other, where all stand in one row; None: in order.
    """

    window: tuple[float, float, float, float] = WHOLE
    order: tuple[int, ...] | None = None

    def box(self, of: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """The box that the cells cover, of a box that the model reads."""
        (left, top, right, bottom), (a, b, c, d) = of, self.window
        wide, high = right - left, bottom - top
        return left + a * wide, top + b * high, left + c * wide, top + d * high


PLAINLY = Raster()


@dataclass(frozen=True)
class Text:
    """A raw text, and how it was cut.

    `offsets` are the character spans of the model's tokens (0, 0 for tokens that stand for no characters), `words` the
    character spans of whole words, `special` marks tokens that the tokenizer added (CLS, SEP, ...). `messages`: of a chat, the
    role of each message and the span of what it says.
    """

    text: str
    tokens: list[str]
    offsets: list[tuple[int, int]]
    words: list[tuple[int, int]]
    special: list[bool]
    name: str = "text"
    messages: list[tuple[str, int, int]] = field(default_factory=list)

    @cached_property
    def word_of(self) -> list[int | None]:
        """For each token the number of the word that holds its first character; None for tokens of no word."""
        order = sorted(range(len(self.words)), key=lambda w: self.words[w])
        begins = [self.words[w][0] for w in order]
        at = [bisect_right(begins, a) - 1 if b > a else -1 for a, b in self.offsets]
        return [
            order[i] if i >= 0 and a < self.words[order[i]][1] else None
            for i, (a, _) in zip(at, self.offsets, strict=True)
        ]


@dataclass(frozen=True)
class Sound:
    """A raw sound: the `samples` of one channel that the model heard, `rate` of them a second, and what its tokens stand for.

    `window`: how many seconds the tokens cover, silence that was added at the end included. `hop`: seconds from one to the
    next, where the model says so. `bands`: of how many bands of pitch each time has tokens, the lowest first.
    """

    samples: Float[Tensor, " time"]
    rate: int
    window: float
    hop: float | None = None
    bands: int = 1
    name: str = "sound"

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate

    def step(self, count: int) -> float:
        """Seconds from one token to the next, of so many tokens: as the model says, if that fits, else equal parts."""
        along = max(1, count // self.bands)
        fits = self.hop is not None and abs(self.window / self.hop - along) < 2
        return self.hop if fits and self.hop is not None else self.window / along

    def times(self, count: int) -> list[tuple[float, float]]:
        """From when to when each of so many tokens stands, in seconds."""
        step = self.step(count)
        return [(i // self.bands * step, (i // self.bands + 1) * step) for i in range(count)]


Raw = Picture | Text | Sound


@dataclass
class Reading:
    """What a reader made of raw pictures and texts: the model's keyword tensors, and what the tensors no longer say.

    Attributes:
        inputs: keyword tensors, as the model's forward takes them.
        raw: stream name -> one `Picture`, `Text` or `Sound` per sample.
        special: stream name -> bool (batch, tokens), True for tokens that the tokenizer added (CLS, SEP, padding).
        labels: class names in index order. mean, std: the picture processor's normalisation, one value a channel.
    """

    inputs: dict[str, Tensor]
    raw: dict[str, Sequence[Raw]] = field(default_factory=dict)
    special: dict[str, Tensor] = field(default_factory=dict)
    labels: list[str] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Word(NamedTuple):
    """A whole word of a text, its character span, and the sum of its tokens' scores."""

    text: str
    start: int
    end: int
    score: float


@dataclass
class Measured:
    """What costs extra passes: run when first read (`measure="lazy"`) or at once (`"full"`)."""

    faithful: float | None = None
    baseline_value: Tensor | None = None
    attribution_target: Tensor | None = None
    passes: int = 0


@dataclass
class Receipt:
    """What was explained, against what, where, and how much of it the map accounts for. Tensors are (batch,).

    `faithful`, `baseline_value`, `attribution_target`, `attribution_error` and `relative_error` need extra passes. Under
    `measure="lazy"` these are run when one of them is first read, and are then counted in `passes`.

    Attributes:
        target, target_value: what was explained, and its value y.
        baseline, baseline_value: what it was compared with, and the value of y there (None where no unit of y is claimed).
        site: where the map lives. readout: the rows that the target reads, and how that was found.
        attribution_sum: the sum of the map over all streams, prefix tokens included.
        attribution_target: T = y - y(baseline), by really running the model with the baseline at the site.
        attribution_error: |sum - T|; relative_error: the same over |T|, NaN (undefined) where |T| < 1e-6 max(1, |y|).
        decomposes: whether the method claims that the sum is T. complete: whether the site is a whole frontier.
        faithful: max |output difference| between the watched run and the plain forward under no_grad.
        predicted, explained: class indices where the target is a class, else None.
        passes: forward and gradient passes spent, shared ones counted for every method that used them.
        seconds: wall-clock time of those passes and of the method.
    """

    method: str
    target: str
    target_value: Tensor
    baseline: str
    site: str
    readout: str
    attribution_sum: Tensor
    decomposes: bool
    complete: bool
    predicted: Tensor | None
    explained: Tensor | None
    passes: int
    seconds: float
    versions: dict[str, str]
    seed: int
    notes: list[str] = field(default_factory=list)
    _measured: Measured | None = field(default=None, repr=False)
    _measure: Callable[[], Measured] | None = field(default=None, repr=False, compare=False)

    def measure(self) -> Measured:
        """Run what is still to be measured (once), and count its passes."""
        if self._measured is None:
            self._measured = self._measure() if self._measure is not None else Measured()
            self._measure = None
            self.passes += self._measured.passes
        return self._measured

    @property
    def faithful(self) -> float | None:
        """max |output difference| between the watched run and the plain forward."""
        return self.measure().faithful

    @property
    def baseline_value(self) -> Tensor | None:
        """y at the baseline, (batch,)."""
        return self.measure().baseline_value

    @property
    def attribution_target(self) -> Tensor | None:
        """T = y - y(baseline), (batch,)."""
        return self.measure().attribution_target

    @property
    def attribution_error(self) -> Tensor | None:
        """|sum - T|, (batch,)."""
        target = self.attribution_target
        return None if target is None else (self.attribution_sum - target).abs()

    @property
    def relative_error(self) -> Tensor | None:
        """|sum - T| / |T|, NaN where T is nothing, (batch,)."""
        target, error = self.attribution_target, self.attribution_error
        if target is None or error is None:
            return None
        undefined = target.abs() < 1e-6 * self.target_value.abs().clamp(min=1)
        return torch.where(undefined, torch.full_like(error, math.nan), error / target.abs())

    def as_dict(self) -> dict[str, Any]:
        """All fields, measured ones included, as plain Python values (tensors become lists)."""
        measured = self.measure()
        names = [f.name for f in dataclasses.fields(self) if not f.name.startswith("_")]
        values = {name: getattr(self, name) for name in names}
        values |= {
            "faithful": measured.faithful,
            "baseline_value": self.baseline_value,
            "attribution_target": self.attribution_target,
            "attribution_error": self.attribution_error,
            "relative_error": self.relative_error,
        }
        return {k: as_json(v) for k, v in values.items()}

    def __getstate__(self) -> dict[str, Any]:
        """A pickle is measured, as a file is: it cannot run the model later."""
        self.measure()
        return self.__dict__ | {"_measure": None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Receipt:
        """The inverse of `as_dict`."""
        values = dict(values)
        measured = Measured(
            values.pop("faithful"), _tensor(values.pop("baseline_value")), _tensor(values.pop("attribution_target"))
        )
        for derived in ("attribution_error", "relative_error"):
            values.pop(derived)
        for name in ("target_value", "attribution_sum"):
            values[name] = _tensor(values[name])
        for name in ("predicted", "explained"):
            values[name] = None if values[name] is None else torch.tensor(values[name])
        return cls(**values, _measured=measured)


@dataclass
class Explanation:
    """Scores of every token of every input stream for one target, by one method, with the receipt.

    Attributes:
        scores: stream name -> float32 (batch, tokens of that input, in its own order), raw, never rescaled; a padded
            token scores exactly 0. Tokens born from a parameter (`cls_token`, ...) are streams of their own.
        grid: stream name -> (rows, columns) for streams that are pictures; (frames, rows, columns) and the like for views,
            frames, tiles or slices, in the input's order; a list of these, one for each picture, where a row of tokens holds
            several pictures. Scores stay in the input's own order, `image_map` is row by row. rasters: how tokens lie on it,
            where not plainly.
        inputs: stream name -> one `Picture`, `Text` or `Sound` per sample, where a reader made the tensors.
        labels: the model's class names, where a reader knows them. names: what some classes are called where there are too many
            to list: the tokens that are explained and predicted.
        signed: whether a negative score has a meaning (evidence against); chooses the colour map.
        found: the object that the target is, where a detector found it.
    """

    method: str
    target: str
    scores: dict[str, Float[Tensor, "batch tokens"]]
    receipt: Receipt
    grid: dict[str, Grid] = field(default_factory=dict)
    inputs: dict[str, Sequence[Raw]] = field(default_factory=dict)
    labels: list[str] | None = None
    signed: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    found: Found | None = None
    rasters: dict[str, Raster] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    _looks: Between = field(default_factory=Between, repr=False, compare=False)

    @property
    def batch(self) -> int:
        """Number of samples: rows of the stream that has most (one value may rest on several, as a picture's on prompts)."""
        return max(len(s) for s in self.scores.values())

    def _text_stream(self) -> str | None:
        return next((n for n, raw in self.inputs.items() if raw and isinstance(raw[0], Text)), None)

    def _picture_stream(self) -> str:
        """The stream that is a picture (a grid, else regions of one); with several, the first."""
        regions = [n for n, raw in self.inputs.items() if raw and isinstance(raw[0], Picture) and raw[0].regions]
        if not self.grid and not regions:
            raise Misuse(f"no stream is a picture; streams: {', '.join(self.scores)}")
        return next(iter([*self.grid, *regions]))

    @property
    def tokens(self) -> list[list[str]] | None:
        """The model's tokens of each text, when a reader made the tensors; of a sound, the seconds that they stand for."""
        heard = next((n for n, raw in self.inputs.items() if raw and isinstance(raw[0], Sound)), None)
        if heard is not None:
            return [[f"{a:.2f}–{b:.2f} s" for a, b in spans] for spans in self.times(heard)]
        name = self._text_stream()
        return None if name is None else [t.tokens for t in self.inputs[name] if isinstance(t, Text)]

    @property
    def words(self) -> list[list[Word]] | None:
        """Whole words of each text with the sum of their tokens' scores, when a reader made the tensors."""
        name = self._text_stream()
        if name is None:
            return None
        pairs = zip(self.inputs[name], self.scores[name].tolist(), strict=True)
        return [words_of(text, scores) for text, scores in pairs if isinstance(text, Text)]

    def times(self, stream: str | None = None) -> list[list[tuple[float, float]]]:
        """From when to when each token of a sound stands, in seconds, for every sample. Raises Misuse where there is none."""
        sounds = {n: raw for n, raw in self.inputs.items() if raw and isinstance(raw[0], Sound)}
        name = stream or next(iter(sounds), "")
        if name not in sounds:
            raise Misuse(
                f"no sound is known of stream {name!r}; explain a raw sound with regard.load(...).explain(sound)"
            )
        return [s.times(self.scores[name].shape[1]) for s in sounds[name] if isinstance(s, Sound)]

    def image_map(
        self, size: tuple[int, int] | None = None, stream: str | None = None
    ) -> Float[Tensor, "picture *frame height width"] | list[Tensor]:
        """The picture stream's scores as a map, bilinearly resized to `size` (height, width); None: one cell a token.

        One for each sample; for each picture where a row of tokens holds several, a list where their grids differ and no size
        is given. Views, frames, tiles or slices of an input stand before the rows, as in `grid`.
        """
        name = stream or self._picture_stream()
        if name not in self.grid:
            raise Misuse(f"stream {name!r} is not a picture; pictures: {', '.join(self.grid) or 'none'}")
        maps = self.cells(name)
        if size is not None:
            flat = [m.reshape(-1, *m.shape[-2:]) for m in maps]
            maps = [
                resized(f, size, self.raster(name)).reshape(*m.shape[:-2], *size)
                for f, m in zip(flat, maps, strict=True)
            ]
        return torch.stack(maps) if len({m.shape for m in maps}) == 1 else maps

    def cells(self, stream: str) -> list[Float[Tensor, "*frame rows columns"]]:
        """The scores of each picture of a stream, row by row: one for each sample, or for each picture in its row of tokens."""
        order, grid = self.raster(stream).order, self.grid[stream]
        if order is None:
            assert isinstance(grid, tuple)
            return [*self.scores[stream].reshape(-1, *grid)]
        row = self.scores[stream].sum(0)[torch.tensor(order)]  # tokens of other samples score 0
        every = grid if isinstance(grid, list) else [grid]
        return [part.reshape(g) for part, g in zip(row.split([math.prod(g) for g in every]), every, strict=True)]

    def place_of(self, stream: str, token: int) -> dict[str, int]:
        """The row and the column of a token on its grid; its picture and its frame, where there are several."""
        grid, order = self.grid[stream], self.raster(stream).order
        at, found = token if order is None else order.index(token), {}
        if isinstance(grid, list):
            sizes = torch.tensor([math.prod(g) for g in grid]).cumsum(0)
            picture = int((sizes <= at).sum())
            at -= int(sizes[picture - 1]) if picture else 0
            grid, found = grid[picture], {"picture": picture}
        rest, column = divmod(at, grid[-1])
        frame, row = divmod(rest, grid[-2])
        return found | ({"frame": frame} if len(grid) > 2 else {}) | {"row": row, "column": column}

    def raster(self, stream: str) -> Raster:
        """How the tokens of a picture's stream lie on its grid."""
        return self.rasters.get(stream, PLAINLY)

    def on_original(self, stream: str | None = None) -> list[Float[Tensor, "height width"]]:
        """One map per sample at its original picture's size: resize and crop undone; 0 where the model did not look.

        Of regions, a pixel has the score of the smallest one that holds it; of tiles that lie one over the other, the sum.
        """
        name = stream or self._picture_stream()
        if name not in self.inputs:
            raise Misuse("no original picture is known; explain raw pictures with regard.load(...).explain(picture)")
        cells = self.cells(name) if name in self.grid else self.scores[name][:, None]
        pictures = [p for p in self.inputs[name] if isinstance(p, Picture)]
        return [placed(c, p, self.raster(name)) for c, p in zip(cells, pictures, strict=True)]

    def between(
        self, query_stream: str, key_stream: str, rows: int | Sequence[int] | None = None
    ) -> Float[Tensor, "batch rows keys"]:
        """Which tokens of one stream look at which of another, for this target: (batch, rows, keys), raw, not normalised.

        Row i is the method's map with the read-out at token i of `query_stream`, in the last state of that stream that the
        target rests on. So exp.scores is the mean of the rows of the stream that the target reads, by its read-out weights.
        `rows`: token numbers, None for all. Padding is 0 on both sides. Rows that were not asked for before
        take one more forward and gradient, and a walk that grows with their number; they are kept, and saved.

        Raises UnknownName for a stream that there is none of, Misuse where a method follows no paths, where no call looks
        from `query_stream`, and after `load` for rows that were not asked for before `save`.
        """
        for name in (query_stream, key_stream):
            if name not in self.scores:
                raise nearest(name, self.scores, "stream")
        wanted = tokens_asked(rows, self.scores[query_stream].shape[1], query_stream)
        return self._looks.rows(query_stream, key_stream, wanted)

    def grouped(self, by: Any, stream: str | None = None) -> list[Groups]:
        """Sums of scores over parts of each text: for every sample its `Group`s (name, text, start, end, score) in order.

        A token counts for the part that its first character is in (white space before it left out), also where it lies across
        a border; what is in no part (special tokens, gaps between spans) is the sum `.elsewhere` of a sample's groups, so that
        all together are the sum of the stream. Spans that overlap each count what they hold.

        Args:
            by: "word", "sentence", "paragraph", "line", "message" (of a chat); or spans of characters in the text: a list of
                (start, end), or a dict from names to a span or to a list of spans. With several samples, spans are given
                sample by sample, in a list.
            stream: which text, where there are several; default: the first.

        Raises UnknownName, Misuse or InputError for a part or a span that there is not, or where no text is known.
        """
        name = stream or self._text_stream()
        raws = self.inputs.get(name or "", ())
        if not raws or not isinstance(raws[0], Text):
            texts = [n for n, raw in self.inputs.items() if raw and isinstance(raw[0], Text)]
            known = (
                f"; texts: {', '.join(texts)}" if texts else ": explain a raw text with regard.load(...).explain(text)"
            )
            raise Misuse(f"no text is known of stream {stream!r}{known}" if stream else f"no text is known{known}")
        every = by if isinstance(by, list) and len(raws) > 1 else [by] * len(raws)
        if len(every) != len(raws):
            raise Misuse(f"spans are needed for each of the {len(raws)} texts, in a list; {len(every)} were given")
        rows = zip(raws, self.scores[str(name)].tolist(), every, strict=True)
        return [grouped(text, scores, spans) for text, scores, spans in rows if isinstance(text, Text)]

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels of pictures as plain Python values, the receipt measured; what is undefined is None."""
        from regard.explanation import export

        return export.as_dict(self)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str | Path:
        """`to_dict` as JSON: a string, or a file, written atomically, whose path is returned."""
        from regard.explanation import export

        return export.as_json_file(export.as_dict(self), path)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, one row a token: sample, stream, number, token, start, end, special, row, column, score.

        Raises Misuse where pandas is not installed.
        """
        from regard.explanation import export

        return export.frame(export.rows(self))

    def __len__(self) -> int:
        return self.batch

    def __getitem__(self, i: Any) -> Explanation:
        """One sample as an explanation of its own, its receipt with it."""
        from regard.explanation import export

        return export.sample(self, i)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file (scores, pictures; everything else as JSON in its header), atomically."""
        from safetensors.torch import save

        tensors = {f"scores/{k}": v.detach().cpu().float().contiguous() for k, v in self.scores.items()}
        header = {
            "method": self.method,
            "target": self.target,
            "streams": list(self.scores),
            "grid": self.grid,
            "rasters": {k: dataclasses.asdict(r) for k, r in self.rasters.items()},
            "inputs": packed(self.inputs, tensors),
            "labels": self.labels,
            "names": self.names,
            "signed": self.signed,
            "options": {k: as_json(v) for k, v in self.options.items()},
            "receipt": self.receipt.as_dict(),
            "found": None if self.found is None else dataclasses.asdict(self.found),
            "between": self._looks.packed(tensors),
        }
        return write_atomically(path, save(tensors, {"format": FORMAT, "json": json.dumps(header)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Read what `save` wrote. Raises InputError for a file that is missing or is not one of ours."""
        header, tensors = unpacked(path, FORMAT, "explanation")
        try:
            return _from_file(header, tensors)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as e:
            reason = (str(e).splitlines() or [""])[0]
            raise InputError(f"{path} is damaged: a field is missing or wrong ({type(e).__name__}: {reason})") from e

    def plot(self, path: str | os.PathLike[str] | None = None, sample: int = 0) -> Any:
        """Draw one sample with matplotlib (needs `regard[viz]`); return the Figure, and write it as PNG if `path`."""
        from regard.report.explanation.png import plot

        return plot(self, path, sample)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`)."""
        from regard.report.explanation.html import write_page

        return write_page([self], path)

    def _repr_html_(self) -> str:
        from regard.report.explanation.html import fragment

        return fragment(self)


def words_of(text: Text, scores: Sequence[float]) -> list[Word]:
    """Sum token scores over whole words: a token belongs to the word that holds its first character."""
    sums = [0.0] * len(text.words)
    for word, score in zip(text.word_of, scores, strict=False):
        if word is not None:
            sums[word] += score
    return [Word(text.text[a:b], a, b, s) for (a, b), s in zip(text.words, sums, strict=True)]


def resized(
    cells: Float[Tensor, "map rows columns"], size: tuple[int, int], raster: Raster
) -> Float[Tensor, "map height width"]:
    """Cells drawn bilinearly at a size of the whole picture that the model reads."""
    if raster.window == WHOLE:
        return F.interpolate(cells[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    box = raster.box((0.0, 0.0, float(size[1]), float(size[0])))
    return torch.stack([_drawn(c, box, *size) for c in cells])


def _drawn(
    cells: Float[Tensor, "rows columns"], box: tuple[float, float, float, float], height: int, width: int
) -> Float[Tensor, "height width"]:
    """A grid of scores over a box of a picture, read bilinearly at each pixel's centre; its border goes on outside."""
    left, top, right, bottom = box
    x = (torch.arange(width) + 0.5 - left) / (right - left)
    y = (torch.arange(height) + 0.5 - top) / (bottom - top)
    where = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1) * 2 - 1
    values, where = cells.detach()[None, None], where[None].to(cells)
    return F.grid_sample(values, where, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]


def placed(cells: Tensor, picture: Picture, raster: Raster = PLAINLY) -> Float[Tensor, "height width"]:
    """`place` of a grid, or of the grids of a picture's tiles, added. Raises Misuse for frames, which no one picture holds."""
    if cells.ndim == 2:
        return place(cells, picture, raster)
    if len(picture.tiles) != len(cells) or cells.ndim != 3:
        raise Misuse(f"a grid of {tuple(cells.shape)} is not of one picture; use image_map, which has every frame")
    each = [dataclasses.replace(picture, box=box) for box in picture.tiles]
    return torch.stack([place(c, p, raster) for c, p in zip(cells, each, strict=True)]).sum(0)


def joined(cells: Float[Tensor, "tile rows columns"], picture: Picture) -> Float[Tensor, "high wide"]:
    """The grids of a picture's tiles as one over the whole picture, as fine as the finest of them."""
    height, width = picture.pixels.shape[:2]
    rows, columns = cells.shape[-2:]
    high = round(height / min((bottom - top) / rows for _, top, _, bottom in picture.tiles))
    wide = round(width / min((right - left) / columns for left, _, right, _ in picture.tiles))
    x, y = wide / width, high / height
    small = [(left * x, top * y, right * x, bottom * y) for left, top, right, bottom in picture.tiles]
    blank = torch.zeros(high, wide, 3, dtype=torch.uint8)
    return placed(cells, dataclasses.replace(picture, pixels=blank, tiles=tuple(small)))


def place(
    cells: Float[Tensor, "rows columns"], picture: Picture, raster: Raster = PLAINLY
) -> Float[Tensor, "height width"]:
    """Draw a grid of scores over the box of the picture that the model saw; 0 outside of it.

    Each pixel centre of the original is mapped into the box and the grid is read there bilinearly, so that boxes
    that end between pixels stay exact. Where the picture has regions the cells are theirs (see `found.painted`).
    """
    height, width = picture.pixels.shape[:2]
    if picture.regions:
        return painted(cells.detach().cpu().float().flatten(), picture.regions, height, width)
    left, top, right, bottom = picture.box
    x, y = (torch.arange(n) + 0.5 for n in (width, height))
    inside = ((x >= left) & (x <= right))[None, :] & ((y >= top) & (y <= bottom))[:, None]
    return _drawn(cells.cpu().float(), raster.box(picture.box), height, width) * inside


def write_atomically(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a temporary file beside `path`, then rename it: never half a file. Makes missing folders."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=final.parent, prefix=f".{final.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, final)
    except BaseException:
        os.unlink(temporary)
        raise
    return final


def packed(inputs: Mapping[str, Sequence[Raw]], tensors: dict[str, Tensor]) -> dict[str, list[dict[str, Any]]]:
    """Raw inputs as JSON values; the pixels of pictures go among the `tensors`."""
    out: dict[str, list[dict[str, Any]]] = {}
    for name, raws in inputs.items():
        out[name] = []
        for i, raw in enumerate(raws):
            entry = {
                f.name: getattr(raw, f.name) for f in dataclasses.fields(raw) if f.name not in ("pixels", "samples")
            }
            if isinstance(raw, Picture):
                tensors[f"pixels/{name}/{i}"] = raw.pixels.cpu().contiguous()
            elif isinstance(raw, Sound):
                tensors[f"samples/{name}/{i}"] = raw.samples.cpu().float().contiguous()
            out[name].append(entry)
    return out


def unpacked(path: str | os.PathLike[str], format: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header of a file, its raw inputs as `Picture` and `Text` again, and the tensors.

    Raises InputError for a file that is missing, damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as f:
            meta = f.metadata() or {}
            if meta.get("format") != format:
                raise InputError(f"{path} is not {article(what)} saved by this version of Regard ({format})")
            header = json.loads(meta["json"])
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except (SafetensorError, OSError, json.JSONDecodeError) as e:
        raise InputError(f"{path} cannot be read as a saved {what}: {e}") from e
    try:
        header["inputs"] = {name: raws_of(name, entries, tensors) for name, entries in header["inputs"].items()}
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as e:
        reason = (str(e).splitlines() or [""])[0]
        raise InputError(f"{path} is damaged: its inputs cannot be read ({type(e).__name__}: {reason})") from e
    return header, tensors


def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiouAEIO' else 'a'} {noun}"


def raws_of(name: str, entries: list[Any], tensors: dict[str, Tensor]) -> list[Raw]:
    """The raw inputs of one stream from what `packed` made of them."""
    raws: list[Raw] = []
    for i, entry in enumerate(entries):
        if "box" in entry:
            regions = tuple(Box(*b) for b in entry.get("regions", ()))
            tiles = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in entry.get("tiles", ()))
            raws.append(Picture(tensors[f"pixels/{name}/{i}"], tuple(entry["box"]), entry["name"], regions, tiles))
        elif "rate" in entry:
            raws.append(Sound(samples=tensors[f"samples/{name}/{i}"], **entry))
        else:
            spans: dict[str, Any] = {k: [(int(a), int(b)) for a, b in entry[k]] for k in ("offsets", "words")}
            spans["messages"] = [(str(role), int(a), int(b)) for role, a, b in entry.get("messages", ())]
            raws.append(Text(**(entry | spans)))
    return raws


def _from_file(header: dict[str, Any], tensors: dict[str, Tensor]) -> Explanation:
    return Explanation(
        method=header["method"],
        target=header["target"],
        scores={name: tensors[f"scores/{name}"] for name in header["streams"]},
        receipt=Receipt.from_dict(header["receipt"]),
        grid={k: grid_of(v) for k, v in header["grid"].items()},
        inputs=header["inputs"],
        labels=header["labels"],
        names={int(i): str(name) for i, name in header.get("names", {}).items()},
        signed=header["signed"],
        options=header["options"],
        found=_found(header.get("found")),
        rasters={k: raster_of(r) for k, r in header.get("rasters", {}).items()},
        _looks=Between.unpacked(header.get("between", {}), header["streams"], tensors),
    )


def grid_of(values: Sequence[Any]) -> Grid:
    """A grid from what a file holds, or one for each picture. Raises ValueError for one of no rows and columns."""
    if len(values) and isinstance(values[0], list | tuple):
        return [_grid_of(v) for v in values]
    return _grid_of(values)


def _grid_of(values: Sequence[int]) -> tuple[int, ...]:
    grid = tuple(int(v) for v in values)
    if len(grid) < 2 or min(grid) < 1:
        raise ValueError(f"a grid of {grid}")
    return grid


def raster_of(values: dict[str, Any]) -> Raster:
    """A `Raster` from what a file holds."""
    left, top, right, bottom = (float(v) for v in values["window"])
    order = values.get("order")
    return Raster((left, top, right, bottom), None if order is None else tuple(int(i) for i in order))


def _found(values: dict[str, Any] | None) -> Found | None:
    return None if values is None else Found(**(values | {"box": Box(*values["box"])}))


def as_json(value: Any) -> Any:
    """Tensors to lists, other unknown things to text, so that JSON can hold them."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _tensor(values: list[Any] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32)
