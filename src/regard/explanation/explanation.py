"""The answer: scores per token stream, the raw input they belong to, and the receipt.

Nothing here knows how scores were computed. Files are safetensors with JSON in the header: no pickle, safe to open.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from regard.errors import Misuse, nearest
from regard.explanation import display
from regard.explanation.boxes import Found
from regard.explanation.causal_test import CausalTest, HowTested, LateTest, shown_tested
from regard.explanation.compared import ComparedClasses
from regard.explanation.export import as_json_file, defined, frame, raws_as_dicts, rows
from regard.explanation.files import as_json, file_of, packed, unpacked
from regard.explanation.guidance import Guidance
from regard.explanation.head_maps import HeadMaps, LateHeads
from regard.explanation.loading import Damaged, box, check, finite, loading, newer, of_file
from regard.explanation.places import (
    PLAINLY,
    Grid,
    Raster,
    grid_of,
    pictures_of_sample,
    placed,
    raster_of,
    resized,
    size_of,
)
from regard.explanation.prediction import Prediction
from regard.explanation.printed import short, table
from regard.explanation.raw_inputs import Picture, Raw, Sound, Text, Word, words_of
from regard.explanation.receipt import Measured, Receipt
from regard.explanation.same import same
from regard.explanation.spans import Groups, grouped
from regard.explanation.token_rows import TokenRows, tokens_asked
from regard.explanation.transfer import FLOWS, LateTransfer, Transfer
from regard.explanation.trust import LateTrust, Trust
from regard.explanation.writing import write_atomically

FORMAT = "regard-explanation-1"


@dataclass(repr=False, eq=False)
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
        of_pairs: whether `between` gives what pairs of tokens do together (`interaction`), rather than who looks at whom.
        found: the object that the target is, where a detector found it.
        late_test, late_trust: how `test` and `trust` find what they give.
        guidance: what steered it, and the map without that; None where no guide was given.
        compared: of a picture that was compared with texts, its classes, and how well each of them fits.
        likely: the likeliest classes by their numbers; `prediction` has their names.
        told: where a second picture guided it, all that was explained (`regard.explanation.told.Told`); not saved.
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
    guidance: Guidance | None = field(default=None, repr=False)
    compared: ComparedClasses | None = None
    of_pairs: bool = False
    likely: Prediction | None = field(default=None, repr=False)
    told: Any = field(default=None, repr=False, compare=False)
    _token_rows: TokenRows = field(default_factory=TokenRows, repr=False, compare=False)
    _transfer: LateTransfer = field(default_factory=LateTransfer, repr=False, compare=False)
    _heads: LateHeads = field(default_factory=LateHeads, repr=False, compare=False)
    late_test: LateTest = field(default_factory=LateTest, repr=False, compare=False)
    late_trust: LateTrust = field(default_factory=LateTrust, repr=False, compare=False)

    @property
    def batch(self) -> int:
        """Number of samples: rows of the stream that has most (one value may rest on several, as a picture's on prompts)."""
        return max(len(s) for s in self.scores.values())

    @property
    def prediction(self) -> Prediction | None:
        """What the model predicts: for each sample the likeliest classes, with their labels and probabilities.

        None where the target is read among no classes (a regression, a custom target), and after `load` of an older file.
        """
        if self.likely is None:
            return None
        return dataclasses.replace(
            self.likely, labels=tuple(tuple(self._label(c) for c in row) for row in self.likely.classes.tolist())
        )

    def _label(self, c: int) -> str:
        """What a class is called; by its number where nobody said."""
        if c in self.names:
            return self.names[c]
        if self.compared is not None and self.receipt.classes == "text":
            return self.compared.names[c // self.compared.templates]
        known = self.receipt.classes == "class" and self.labels is not None and 0 <= c < len(self.labels)
        return self.labels[c] if known and self.labels else f"{self.receipt.classes} {c}"

    @property
    def samples(self) -> int:
        """Number of samples that are shown one by one: a picture that is compared with texts is one, with all of them."""
        return 1 if self.compared is not None else self.batch

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
            size = size_of(size)
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
        if self.raster(stream).each:
            assert isinstance(grid, tuple)
            return [*self.scores[stream][:, torch.tensor(order)].reshape(-1, *grid)]
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
        Of `interaction` it is what each pair adds beyond what its two sides do.
        `rows`: token numbers, None for all. Padding is 0 on both sides. Rows that were not asked for before
        take one more forward and gradient, and a walk that grows with their number; they are kept, and saved.

        Raises UnknownName for a stream that the map does not have, Misuse where a method follows no paths, where no call looks
        from `query_stream`, and after `load` for rows that were not asked for before `save`.
        """
        for name in (query_stream, key_stream):
            if name not in self.scores:
                raise nearest(name, self.scores, "stream")
        wanted = tokens_asked(rows, self.scores[query_stream].shape[1], query_stream)
        return self._token_rows.rows(query_stream, key_stream, wanted)

    def between_errors(self, query_stream: str, key_stream: str) -> Float[Tensor, "batch rows keys"]:
        """Standard errors of what `between` gives of a method that draws (`interaction`): how far other draws would move it.

        0 where every subset was run. Raises UnknownName for a stream that the map does not have, Misuse for other methods.
        """
        for name in (query_stream, key_stream):
            if name not in self.scores:
                raise nearest(name, self.scores, "stream")
        if not self.of_pairs:
            raise Misuse(f"{self.method} draws no pairs of tokens, so they have no standard errors; interaction does")
        return self._token_rows.errors[query_stream][key_stream]

    def transfer(self, flows: int = FLOWS) -> Transfer:
        """How the target would change if attention moved between tokens, layer by layer: ∂y/∂S, summed over heads and rows.

        S are the scores that each softmax takes. It depends on the target, not on the method. flows: how many of the strongest
        flows of each layer are kept. Costs one more forward and gradient, once; it is kept, and saved.

        Raises Misuse after `load` where it was not asked for before `save`, and where samples read one another's tokens;
        NoAttention, TrailLost or Unmoved where there is no attention to follow that the target depends on.
        """
        return Transfer(self.target, self.receipt.target_value, self._transfer.layers(flows), self)

    def heads(self) -> HeadMaps:
        """Each head's own map, layer by layer: that of this method where it follows one head of one layer alone.

        Of `raw_attention` it is where the head looks from the tokens that the target reads; of `gae` what of it speaks for the
        target. `explain(heads={layer: head})` gives one of them as an explanation of its own. Costs one more forward, of
        `gae` and gradient, once; it is kept, and not saved.

        Raises Misuse for other methods, after `load`, and where samples read one another's tokens.
        """
        return HeadMaps(self._heads.layers(), self)

    def test(
        self,
        share: float = 0.1,
        random: int = 49,
        *,
        sufficiency: bool = False,
        stream: str | None = None,
        unit: str | None = None,
        seed: int = 0,
        model: Any = None,
    ) -> CausalTest | list[CausalTest]:
        """Whether this map is better than chance, here: a `CausalTest`, or a list of them, one for each of several samples.

        The k units that score highest are taken away, and k random ones, so many times: the target should fall farther without
        the former. A unit is a word where words are known, else a token (a patch, a region, a moment of a sound); special
        tokens, padding, and tokens that the target does not see or reads by themselves are none. Of what a model wrote, the
        prompt's are tested; those of the picture, where the prompt has fewer than 8. Costs about `random` forward passes; what
        was found is kept on the receipt, and saved.

        Args:
            share: of the units that is taken away. k is at least so large that there are 50 choices of k.
            random: how many random choices; all others where there are at most 200 choices. All methods and targets on an input
                share them.
            sufficiency: test too what is kept of the target with the highest units alone (twice the cost).
            stream: whose tokens; default: the picture's, else the longest text's.
            unit: "token" for the model's own tokens also where words are known.
            seed: of the random choices, and of the order of equal scores.
            model: for an explanation that was loaded or unpickled: the model that was explained, or its reader.

        Raises Misuse for a test that there cannot be, and after `load` without a model; UnknownName for a stream or a unit.
        """
        given = {
            "share": share,
            "random": random,
            "sufficiency": sufficiency,
            "stream": stream,
            "unit": unit,
            "seed": seed,
        }
        return self._tested(HowTested.checked(**given), model)

    def _tested(self, asked: HowTested, model: Any = None, seconds: float = math.inf) -> CausalTest | list[CausalTest]:
        """A test, as it was found before or run now."""
        found = [t for t in self.receipt.causal if t.asked == asked]
        if len(found) < len(self.receipt.target_value):
            started = time.perf_counter()
            found = self.late_test.tests(self, asked, model, seconds)
            self.receipt.seconds += time.perf_counter() - started
            self.receipt.causal = [*(t for t in self.receipt.causal if t.asked != asked), *found]
            self.receipt.passes += sum(t.passes for t in found)
        return found[0] if len(found) == 1 else found

    @property
    def trust(self) -> Trust | list[Trust]:
        """How likely the top token of this map is the right one: a `Trust`, or a list of them, one for each of several samples.

        A fit to maps of small models with known answers says so from what the map, its causal test, other methods, noise and
        `regard.verify` show; where the case lies outside of what it has seen, `notes` say so. Costs some 60 forward passes,
        five maps and a proof, once; it is kept, and not saved. docs/trust.md has how it was judged, and where it fails.

        Raises Misuse after `load`, and where there is nothing to judge it by.
        """
        found = self.late_trust.of(self)
        return found[0] if len(found) == 1 else found

    def test_unasked(self, seconds: float) -> None:
        """The test that a page shows; where there can be none, or it would take more than so many seconds, why not."""
        late = self.late_test
        if self.receipt.causal or not (late.possible or late.refused):
            return
        try:
            self._tested(HowTested(), None, seconds)
            late.skipped = ""
        except Exception as e:  # whatever a user's model makes of an input without some of its tokens
            late.skipped = (str(e).splitlines() or [type(e).__name__])[0]

    @property
    def untested(self) -> str:
        """Why a page shows no test; "" where there is one, or none was wanted."""
        return "" if self.receipt.causal else self.late_test.skipped

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

        Raises UnknownName, Misuse or InputError for a part or a span that the text does not have, or where no text is known.
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
        made = {
            "method": self.method,
            "target": self.target,
            "scores": self.scores,
            "grid": self.grid,
            "inputs": raws_as_dicts(self.inputs, self.scores),
            "labels": self.labels,
            "names": self.names,
            "signed": self.signed,
            "options": self.options,
            "found": None if self.found is None else dataclasses.asdict(self.found),
            "compared": None if self.compared is None else self.compared.as_dict(),
            "prediction": None if self.prediction is None else [[c._asdict() for c in row] for row in self.prediction],
            "receipt": self.receipt.as_dict(),
        }
        plain: dict[str, Any] = defined(as_json(made))
        return plain

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str | Path:
        """`to_dict` as JSON: a string, or a file, written atomically, whose path is returned."""
        return as_json_file(self.to_dict(), path)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row a token: sample, stream, number, token, start, end, special, row, column, score."""
        return list(rows(self.scores, self.inputs, self._on_grid))

    def to_dataframe(self, backend: str | None = None) -> Any:
        """`to_rows` as a pandas DataFrame, or where there is no pandas, as a polars one; `backend` names one of them.

        Raises Misuse where the one that is named, or where both are not installed; UnknownName for another name.
        """
        return frame(self.to_rows(), backend)

    def numpy(self) -> dict[str, Any]:
        """The scores as NumPy arrays: stream -> float32 (batch, tokens), copies that share nothing with the model."""
        return {name: s.detach().cpu().float().numpy().copy() for name, s in self.scores.items()}

    def _on_grid(self, stream: str, token: int) -> dict[str, int]:
        return self.place_of(stream, token) if stream in self.grid else {}

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, i: SupportsIndex) -> Explanation: ...
    @overload
    def __getitem__(self, i: slice) -> list[Explanation]: ...
    def __getitem__(self, i: Any) -> Explanation | list[Explanation]:
        """One sample as an explanation of its own, its receipt with it; of a slice a list of these.

        Raises IndexError for a sample that there is not, Misuse for what is no number.
        """
        if isinstance(i, slice):
            return [self[n] for n in range(*i.indices(len(self)))]
        try:
            i = operator.index(i)
        except TypeError:
            raise Misuse(f"an explanation is read one sample at a time: give its number, not {i!r}") from None
        if not -len(self) <= i < len(self):
            raise IndexError(f"there is no sample {i}; the explanation holds {len(self)}, counted from 0")
        return dataclasses.replace(self) if self.compared is not None else self._sample(i % len(self))

    def _sample(self, i: int) -> Explanation:
        """One of several samples; of pictures that lie in rows of tokens with others, those of its own."""
        packed = {
            s: pictures_of_sample(self.grid[s], self.raster(s), t, i) for s, t in self.scores.items() if s in self.grid
        }
        kept = {s: found for s, found in packed.items() if found is not None}
        raws = {s: raws[i : i + 1] for s, raws in self.inputs.items() if i < len(raws)}
        raws |= {s: [self.inputs[s][p] for p in k.pictures] for s, k in kept.items() if s in self.inputs}
        return dataclasses.replace(
            self,
            scores={s: t[i : i + 1] for s, t in self.scores.items() if i < len(t)},
            grid=self.grid | {s: k.grid for s, k in kept.items()},
            rasters=self.rasters | {s: k.raster for s, k in kept.items()},
            inputs={s: raws[s] for s in self.inputs if s in raws},
            receipt=self.receipt.of_sample(i, self.batch),
            guidance=None if self.guidance is None else self.guidance.of_sample(i),
            likely=None if self.likely is None else self.likely.of_sample(i),
            _token_rows=self._token_rows.of_sample(i),
            _transfer=self._transfer.of_sample(i),
            _heads=self._heads.of_sample(i),
            late_test=self.late_test.of_sample(i),
            late_trust=self.late_trust.of_sample(i),
        )

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Explanation) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return short(self)

    def __str__(self) -> str:
        return table(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file (scores, pictures; everything else as JSON in its header), atomically."""
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
            "compared": None if self.compared is None else self.compared.as_dict(),
            "of_pairs": self.of_pairs,
            "guidance": None if self.guidance is None else self.guidance.packed(tensors),
            "between": self._token_rows.packed(tensors),
            "prediction": None if self.likely is None else self.likely.packed(tensors),
            "transfer": self._transfer.packed(tensors),
            "causal": self.late_test.packed(tensors),
        }
        return write_atomically(path, file_of(FORMAT, header, tensors))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Read what `save` wrote. Raises InputError for a file that is missing or is not one of ours."""
        header, tensors, unread = unpacked(path, FORMAT, "explanation")
        with loading(path) as unknown:
            made = _from_file(header, tensors)
            made.receipt.notes += newer([*unread, *unknown])
        return made

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        sample: int = 0,
        *,
        ax: Any = None,
        cmap: Any = None,
        scale: str | float = "own",
        original: bool = True,
    ) -> Any:
        """Draw one sample with matplotlib (needs `regard[viz]`); return the Figure, and write it if `path`.

        Over a picture the colours are exactly those of the colour bar: of the picture itself only contours are drawn there.

        Args:
            path: its ending tells the format: .png, .svg, .pdf, .jpg or .jpeg. The same figure gives the same bytes.
            sample: which of the batch.
            ax: matplotlib axes to draw the map alone into, without words or a colour bar: the picture's, else the text's, else
                the scores as a strip. `figure.colorbar(ax.images[0])` adds the bar. The figure of the axes is returned.
            cmap: a matplotlib colour map or its name, instead of orange (and blue for what speaks against the target); of
                signed scores the middle is zero.
            scale: "own": the full colour is this sample's largest score; "shared": that of all samples of this explanation,
                whose scores are of one kind, to compare them; or a number, the score that gets the full colour, to compare
                explanations of one method. Scores of different methods have different units, and share none.
            original: whether the picture stands beside its map in its own colours.

        Raises:
            Misuse: for another ending, a colour map that matplotlib does not have, or a sample that is not there.
        """
        return display.plot_explanation(self, path, sample, ax=ax, cmap=cmap, scale=scale, original=original)

    def overlay(self, sample: int = 0) -> UInt8[np.ndarray, "height width 4"]:
        """The map alone at the size of its picture, RGBA (needs `regard[viz]`), to be laid over the picture or anything else.

        It is clear where a score is 0 and where the model did not look; the opacity is 0.8 at the largest score.
        Raises Misuse where no picture is known.
        """
        laid: UInt8[np.ndarray, "height width 4"] = display.overlay(self, sample)
        return laid

    def to_html(self, path: str | os.PathLike[str], test: bool | None = None) -> Path:
        """Write a self-contained page (needs `regard[viz]`).

        test: whether the page shows the causal test (`test`): True, False, or None: if it takes at most about ten seconds.
        """
        shown_tested([self], test)
        return display.write_explanation(self, path)

    def _repr_html_(self) -> str:
        return display.explanation_fragment(self)


def still(exp: Explanation) -> Explanation:
    """The same scores, held by neither the model nor its run: nothing more can be measured, tested or asked of it."""
    receipt = dataclasses.replace(exp.receipt, _measure=None, _measured=Measured())
    return dataclasses.replace(
        exp, receipt=receipt, _token_rows=TokenRows(), _transfer=LateTransfer(), late_test=LateTest()
    )


PART = dict[str, Any] | None
KEPT = ("grid", "rasters", "names", "receipt", "found", "compared", "guidance")
"""What is made of a part has its name."""
APART: dict[str, Any] = {
    "streams": list[str],
    **dict.fromkeys((*KEPT, "prediction", "transfer", "causal"), PART),
    "between": dict[str, list[int]] | None,
    "rasters": dict[str, dict[str, Any]] | None,
}
"""The parts of a file that are no plain values, and of what kind they are."""


def _from_file(header: dict[str, Any], tensors: dict[str, Tensor]) -> Explanation:
    for name, kind in APART.items():
        check(name, header.get(name), kind)
    plain = {k: v for k, v in header.items() if k not in APART or k in KEPT}
    scores = {name: finite(f"the scores of {name!r}", tensors[f"scores/{name}"]) for name in header["streams"]}
    between = TokenRows.unpacked(header.get("between") or {}, header["streams"], tensors)
    between.check(scores)
    made = of_file(
        Explanation,
        plain,
        scores=scores,
        told=None,
        receipt=Receipt.from_dict(header["receipt"]),
        grid={k: grid_of(v) for k, v in header["grid"].items()},
        names={int(i): str(name) for i, name in (header.get("names") or {}).items()},
        found=_found(header.get("found")),
        compared=ComparedClasses.from_dict(header.get("compared")),
        guidance=Guidance.unpacked(header.get("guidance"), tensors),
        likely=Prediction.unpacked(header.get("prediction"), tensors),
        rasters={k: raster_of(r) for k, r in (header.get("rasters") or {}).items()},
        _token_rows=between,
        _transfer=LateTransfer.unpacked(header.get("transfer"), tensors),
        late_test=LateTest.unpacked(header.get("causal"), tensors),
    )
    check_together(made)
    return made


def check_together(exp: Explanation) -> None:
    """Raise Damaged where parts of a file, each well by itself, are not of one explanation."""
    if not exp.scores or not exp.batch:
        raise Damaged("it holds no scores")
    for stream, grid in exp.grid.items():
        _check_grid(stream, grid, exp.raster(stream), exp.scores[stream].shape[1])
    for stream, raws in exp.inputs.items():
        texts = [raw for raw in raws if isinstance(raw, Text)]
        if texts and stream in exp.scores and not len(texts) == len(raws) == len(exp.scores[stream]):
            raise Damaged(f"{stream!r} has {len(exp.scores[stream])} samples and {len(texts)} texts")
    for maps in [] if exp.guidance is None else [exp.guidance.m, exp.guidance.unguided]:
        for stream, values in maps.items():
            if values.shape[1:] != exp.scores[stream].shape[1:]:
                raise Damaged(f"the guide of {stream!r} has {tuple(values.shape)} values")
    if exp.likely is not None and len(exp.likely) != len(exp.receipt.target_value):
        raise Damaged(f"it has {len(exp.likely)} predictions of {len(exp.receipt.target_value)} targets")


def _check_grid(stream: str, grid: Grid, raster: Raster, tokens: int) -> None:
    places = sum(math.prod(g) for g in (grid if isinstance(grid, list) else [grid]))
    order = raster.order
    fit = places == tokens if order is None else places == len(order) and all(0 <= i < tokens for i in order)
    if not fit:
        raise Damaged(f"the grid of {stream!r}, {grid}, is not of its {tokens} tokens")


def _found(values: dict[str, Any] | None) -> Found | None:
    return None if values is None else of_file(Found, values, box=box(values["box"]))
