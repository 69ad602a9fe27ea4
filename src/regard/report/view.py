"""What there is to draw of one sample of an explanation, without saying how: pictures, texts, charts, short streams."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from regard.errors import Misuse
from regard.explanation.boxes import Box, Found
from regard.explanation.explanation import Explanation
from regard.explanation.names import moment_name, object_name, stream_name
from regard.explanation.places import PLAINLY, Raster, joined
from regard.explanation.raw_inputs import Picture, Raw, Sound, Text, words_of
from regard.report.colour import Array, ColourScale, number, scale_of

SMALL = 256  # pixels: a smaller picture is drawn larger, pixel by pixel
ROUNDING = 1e-5  # of the largest score: maps that differ by no more are one map
LISTED = 8  # a stream of at most so many tokens that is neither picture nor text is listed beside the others


@dataclass(frozen=True)
class PictureView:
    """A stream that is a grid of scores, and the original picture where it is known. `name`: what the stream is called.

    Scores of a picture's regions are one row of cells. `found`: the object that is explained, where one was found.
    """

    stream: str
    cells: Array
    scale: ColourScale
    picture: Picture | None
    found: Found | None = None
    raster: Raster = PLAINLY
    name: str = ""

    @property
    def regions(self) -> Sequence[Box]:
        """The boxes that the cells stand for, where they are no grid."""
        return () if self.picture is None else self.picture.regions


@dataclass(frozen=True)
class SoundView(PictureView):
    """A stream that is a sound: its scores over a picture of it, and from when to when each token stands, in seconds."""

    times: Sequence[tuple[float, float]] = ()
    scores: Sequence[float] = ()

    @property
    def moments(self) -> list[TextPiece]:
        """Every token by the time that it stands for."""
        return [TextPiece(moment_name(a, b), s) for (a, b), s in zip(self.times, self.scores, strict=True)]


@dataclass(frozen=True)
class TextPiece:
    """A run of a text. `score` is None for what lies between words; `note` is the model's own spelling of a token.

    `tokens`: the numbers of the tokens that it is made of.
    """

    text: str
    score: float | None = None
    special: bool = False
    note: str = ""
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class TextView:
    """A stream that is a text: its words with what lies between them (none where no words are known), its tokens."""

    stream: str
    text: Text
    words: list[TextPiece]
    tokens: list[TextPiece]
    word_scale: ColourScale
    token_scale: ColourScale
    name: str = ""

    @property
    def best(self) -> tuple[list[TextPiece], ColourScale]:
        """Words where they are known, else tokens."""
        return (self.words, self.word_scale) if self.words else (self.tokens, self.token_scale)


@dataclass(frozen=True)
class ChartView:
    """A stream of tokens of which nothing but the scores is known."""

    stream: str
    scores: list[float]
    scale: ColourScale
    name: str = ""


Panel = PictureView | TextView | ChartView


@dataclass(frozen=True)
class SampleView:
    """One sample of one explanation: its panels, and the short streams (`cls_token`, ...) that are listed by number."""

    exp: Explanation
    sample: int
    panels: list[Panel]
    listed: list[ChartView]
    method: str
    target: str


@dataclass
class Section:
    """One raw input with all its views: methods x targets."""

    name: str
    key: str
    views: list[SampleView] = field(default_factory=list)


def view_of(exp: Explanation, sample: int = 0) -> SampleView:
    """Sort the streams of one sample into panels and listed ones. Raises Misuse for a sample that is not there."""
    if not 0 <= sample < exp.batch:
        raise Misuse(f"sample {sample} does not exist; the explanation holds {exp.batch}, counted from 0")
    panels: list[Panel] = []
    bare: list[ChartView] = []
    for stream, batch in exp.scores.items():
        for row in _rows(exp, stream, sample) if sample < len(batch) else ():
            scores = batch[row].detach().cpu().float().numpy()
            for panel in _panels(exp, stream, scores, _raw(exp, stream, row)):
                (bare if isinstance(panel, ChartView) else panels).append(panel)  # type: ignore[arg-type]
    long = [p for p in bare if len(p.scores) > LISTED or not panels]
    panels += long
    listed = [p for p in bare if not any(p is q for q in long)]
    return SampleView(exp, sample, panels, listed, method_of(exp), target_of(exp, sample))


def _rows(exp: Explanation, stream: str, sample: int) -> list[int]:
    """The rows of a stream that one sample shows: of the texts that a picture is compared with, those that have scores."""
    fits, raws = exp.compared, exp.inputs.get(stream, ())
    if fits is None or not raws or not isinstance(raws[0], Text) or len(raws) == 1:
        return [sample]
    scored = exp.scores[stream].any(1).nonzero()[:, 0].tolist()
    explained = 0 if exp.receipt.explained is None else int(exp.receipt.explained.reshape(-1)[0])
    return scored or [*fits.texts_of(explained)]


def enlarged(picture: Picture) -> Picture:
    """A small picture with every pixel larger, so that a map over it is not as coarse as its pixels."""
    times = -(-SMALL // max(picture.pixels.shape[:2]))
    if times == 1:
        return picture
    pixels = picture.pixels.repeat_interleave(times, 0).repeat_interleave(times, 1)
    left, top, right, bottom = (times * v for v in picture.box)
    return replace(picture, pixels=pixels, box=(left, top, right, bottom))


def pictures_of(exp: Explanation, sample: int = 0) -> list[PictureView]:
    """The panels of one sample that are pictures, without the work that its texts would be."""
    found: list[PictureView] = []
    for stream, batch in exp.scores.items():
        raw = _raw(exp, stream, sample)
        a_picture = stream in exp.grid or isinstance(raw, Sound) or (isinstance(raw, Picture) and bool(raw.regions))
        if sample < len(batch) and a_picture:
            panels = _panels(exp, stream, batch[sample].detach().cpu().float().numpy(), raw)
            found += [p for p in panels if isinstance(p, PictureView)]
    return found


def _raw(exp: Explanation, stream: str, sample: int) -> Raw | None:
    raws = exp.inputs.get(stream, ())
    return raws[sample] if sample < len(raws) else None


def _panels(exp: Explanation, stream: str, scores: Array, raw: Raw | None) -> list[Panel]:
    scale = scale_of(scores, exp.signed)
    if stream in exp.grid and not isinstance(raw, Sound):
        return [
            panel
            for one in _pictures_in(exp, stream, scores, raw if isinstance(raw, Picture) else None)
            for panel in _frames(exp, stream, one, scale)
        ]
    if isinstance(raw, Picture) and raw.regions:
        return [PictureView(stream, scores[None], scale, raw, name=stream_name(exp, stream))]
    if isinstance(raw, Sound):
        return [replace(_sound_panel(stream, scores, scale, raw), name=stream_name(exp, stream))]
    if isinstance(raw, Text):
        return [_text_panel(exp, stream, scores, raw)]
    return [ChartView(stream, [float(s) for s in scores], scale, stream_name(exp, stream))]


def _pictures_in(
    exp: Explanation, stream: str, scores: Array, raw: Picture | None
) -> list[tuple[list[int], Array, Picture | None]]:
    """The pictures of one row of tokens, with their numbers where there are several: those that say something of the sample."""
    grid, order = exp.grid[stream], exp.raster(stream).order
    if order is None:
        assert isinstance(grid, tuple)
        return [([], scores.reshape(grid), raw)]
    every, raws, first = grid if isinstance(grid, list) else [grid], exp.inputs.get(stream, ()), 0
    found = []
    for i, one in enumerate(every):
        cells = scores[list(order[first : first + math.prod(one)])].reshape(one)
        picture = raws[i] if i < len(raws) else None
        if exp.batch == 1 or cells.any():
            at = [] if len(every) == 1 else [i]
            found.append((at, cells, picture if isinstance(picture, Picture) else None))
        first += math.prod(one)
    return found


def _frames(
    exp: Explanation, stream: str, one: tuple[list[int], Array, Picture | None], scale: ColourScale
) -> list[PictureView]:
    """A picture, or each of its frames, views, tiles or slices."""
    number, cells, picture = one
    key = stream + "".join(f"[{i}]" for i in number)
    name = " ".join([stream_name(exp, stream), *(str(i + 1) for i in number)])
    if cells.ndim == 2:
        return [PictureView(key, cells, scale, picture, exp.found, exp.raster(stream), name)]
    if picture is not None and cells.ndim == 3 and len(picture.tiles) == len(cells):
        import torch

        height, width = picture.pixels.shape[:2]
        whole = joined(torch.from_numpy(np.ascontiguousarray(cells)), picture).numpy()
        seen = replace(picture, box=(0.0, 0.0, float(width), float(height)))
        return [PictureView(key, whole, scale_of(whole, exp.signed), seen, exp.found, name=name)]
    return [
        PictureView(
            f"{key}[{', '.join(map(str, i))}]", cells[i], scale, None, None, exp.raster(stream), f"{name}, {_frame(i)}"
        )
        for i in np.ndindex(cells.shape[:-2])
    ]


def _frame(at: tuple[int, ...]) -> str:
    """A frame, view or slice, counted from 1."""
    return f"frame {', '.join(str(i + 1) for i in at)}"


def _sound_panel(stream: str, scores: Array, scale: ColourScale, sound: Sound) -> SoundView:
    """All that the tokens cover, where some of the map lies in the silence after the sound; else the sound alone."""
    from regard.report.sound import drawn

    bands = sound.bands if len(scores) % sound.bands == 0 else 1
    cells, times = scores.reshape(-1, bands).T[::-1].copy(), sound.times(len(scores))
    covered = cells.shape[1] * sound.step(len(scores))
    after = np.array([a >= sound.seconds for a, _ in times])
    silent = float(np.abs(scores[after]).sum()) > 0.01 * float(np.abs(scores).sum())
    shown = covered if silent or abs(covered - sound.seconds) < 2 * sound.step(len(scores)) else sound.seconds
    pixels = drawn(sound, shown, bands > 1)
    box = (0.0, 0.0, pixels.shape[1] * covered / shown, float(pixels.shape[0]))
    picture = Picture(pixels, box, sound.name)
    return SoundView(stream, cells, scale, picture, times=times, scores=scores.tolist())


def _text_panel(exp: Explanation, stream: str, scores: Array, text: Text) -> TextView:
    words = word_pieces(text, scores.tolist()) if text.words else []
    tokens = token_pieces(text, scores.tolist())
    known = [p.score for p in words if p.score is not None]
    plain = [p.score for p in tokens if p.score is not None and not p.special]
    every = [p.score for p in tokens if p.score is not None]
    return TextView(
        stream,
        text,
        words,
        tokens,
        scale_of(known, exp.signed),
        scale_of(plain if any(plain) else every, exp.signed),
        stream_name(exp, stream),
    )


def word_pieces(text: Text, scores: Sequence[float]) -> list[TextPiece]:
    """The whole text in order: words with their scores, and what lies between them without."""
    pieces: list[TextPiece] = []
    tokens: dict[int, list[int]] = {}
    for i, w in enumerate(text.word_of):
        if w is not None:
            tokens.setdefault(w, []).append(i)
    at = 0
    for w, word in sorted(enumerate(words_of(text, scores)), key=lambda found: found[1].start):
        if word.start < at:
            continue
        if word.start > at:
            pieces.append(TextPiece(text.text[at : word.start]))
        pieces.append(TextPiece(word.text, word.score, tokens=tuple(tokens.get(w, ()))))
        at = word.end
    return [*pieces, TextPiece(text.text[at:])] if at < len(text.text) else pieces


def token_pieces(text: Text, scores: Sequence[float]) -> list[TextPiece]:
    """The model's tokens: as the text spells them, or by the tokenizer's name where they stand for no characters."""
    pieces = []
    for i, (token, score) in enumerate(zip(text.tokens, scores, strict=False)):
        start, end = text.offsets[i] if i < len(text.offsets) else (0, 0)
        special = i < len(text.special) and text.special[i]
        pieces.append(TextPiece(text.text[start:end].strip() or token, float(score), special, token, (i,)))
    return pieces


def target_of(exp: Explanation, sample: int) -> str:
    """The target in words: the found object, or with the name of the explained class where the target does not say it."""
    if exp.found is not None:
        return object_name(exp.found)
    name = class_of(exp, exp.receipt.explained, sample)
    spelt = "" if name is None else rf"{re.escape(name)}|{re.escape(name.replace('class ', 'token '))}"
    said = name is None or re.search(rf"(?<!\w)({spelt})(?!\w)", exp.target)
    return exp.target if said else f"{exp.target} ({name})"


def class_of(exp: Explanation, indices: object, sample: int) -> str | None:
    """The name (or number) of a sample's class on the receipt; None where the target is no class."""
    if indices is None:
        return None
    values = np.atleast_1d(np.asarray(indices))
    index = int(values[min(sample, len(values) - 1)])
    if fits_texts(exp):
        return f"text {index}"
    if index in exp.names:
        return exp.names[index]
    labels = exp.labels
    if labels is not None and index == len(labels) and exp.found is not None:
        return "no object"
    return labels[index] if labels is not None and 0 <= index < len(labels) else f"{exp.receipt.classes} {index}"


def fits_texts(exp: Explanation) -> bool:
    """Whether the target is how well a picture and a text fit, so that its "classes" are texts."""
    return exp.receipt.classes == "text"


def method_of(exp: Explanation) -> str:
    """The method with its options."""
    options = ", ".join(f"{k}={v}" for k, v in exp.options.items())
    return f"{exp.method} ({options})" if options else exp.method


def same_maps(explanations: Sequence[Explanation]) -> dict[str, list[str]]:
    """Methods, each with the others that gave the very maps that it gave, of every target; the first of them stands for all."""
    by_method: dict[str, list[Explanation]] = {}
    for exp in explanations:
        by_method.setdefault(method_of(exp), []).append(exp)
    found: dict[str, list[str]] = {}
    for name, own in by_method.items():
        first = next((f for f in found if _alike(by_method[f], own)), None)
        if first is None:
            found[name] = []
        else:
            found[first].append(name)
    return found


def _alike(some: Sequence[Explanation], others: Sequence[Explanation]) -> bool:
    return len(some) == len(others) and all(_same_map(a, b) for a, b in zip(some, others, strict=True))


def _same_map(a: Explanation, b: Explanation) -> bool:
    """Whether two maps are one but for rounding, and not empty."""
    if (a.target, a.signed, [*a.scores]) != (b.target, b.signed, [*b.scores]):
        return False
    pairs = [(a.scores[s].float(), b.scores[s].float()) for s in a.scores]
    if any(x.shape != y.shape for x, y in pairs):
        return False
    largest = max((float(x.abs().max()) for x, _ in pairs if x.numel()), default=0.0)
    return largest > 0 and all(bool(((x - y).abs() <= ROUNDING * largest).all()) for x, y in pairs)


def sections(explanations: Sequence[Explanation]) -> list[Section]:
    """Group samples by their raw input; the same method and target twice on one input starts a section anew.

    Methods that gave the very same maps are one, with all their names.
    """
    found: list[Section] = []
    names = {first: " = ".join([first, *others]) for first, others in same_maps(explanations).items()}
    for exp in explanations:
        if method_of(exp) not in names:
            continue
        for sample in range(exp.samples):
            view = replace(view_of(exp, sample), method=names[method_of(exp)])
            key = _key(exp, sample)
            home = next((s for s in found if s.key == key and not _holds(s, view)), None)
            if home is None:
                home = Section(input_name(exp, sample), key)
                found.append(home)
            home.views.append(_told_apart(home, view))
    return found


def _holds(section: Section, view: SampleView) -> bool:
    return any((v.method, v.exp.target) == (view.method, view.exp.target) for v in section.views)


def _told_apart(section: Section, view: SampleView) -> SampleView:
    """A view whose target is called as no other target of its section is: of two objects the second has its number."""
    called = {v.exp.target: v.target for v in section.views}
    if view.exp.target in called:
        return replace(view, target=called[view.exp.target])
    same = sum(name.startswith(view.target) for name in called.values())
    return replace(view, target=f"{view.target} ({same + 1})") if view.target in called.values() else view


def input_name(exp: Explanation, sample: int) -> str:
    """What a sample's raw inputs are called: files by their names, a text that is called by its own words in quotes."""
    raws = [r for r in (_raw(exp, s, sample) for s in exp.inputs) if r is not None]
    return " + ".join(dict.fromkeys(_called(r) for r in raws)) or f"sample {sample}"


def _called(raw: Raw) -> str:
    begins = isinstance(raw, Text) and " ".join(raw.text.split()).startswith(raw.name.removesuffix(" …"))
    return f"“{raw.name}”" if begins and raw.name else raw.name


def _key(exp: Explanation, sample: int) -> str:
    """What tells raw inputs apart: their content; without any, the sample's number and the streams' lengths."""
    digest = hashlib.sha256()
    for stream in exp.scores:
        raw = _raw(exp, stream, sample)
        if isinstance(raw, Picture):
            digest.update(repr((stream, raw.name, raw.box, raw.regions, tuple(raw.pixels.shape))).encode())
            digest.update(raw.pixels.cpu().contiguous().numpy().tobytes())
        elif isinstance(raw, Sound):
            digest.update(repr((stream, raw.name, raw.rate, raw.window)).encode())
            digest.update(raw.samples.cpu().contiguous().numpy().tobytes())
        elif isinstance(raw, Text):
            digest.update(repr((stream, raw.name, raw.text)).encode("utf-8", "surrogatepass"))
    if exp.compared is not None:
        digest.update(repr((exp.compared.names, exp.compared.scores)).encode("utf-8", "surrogatepass"))
    if not exp.inputs:
        digest.update(repr((sample, exp.grid, {k: v.shape[1] for k, v in exp.scores.items()})).encode())
    return digest.hexdigest()


def listed(panel: ChartView) -> str:
    """A short stream in one line: its name and its scores."""
    return f"{panel.name} {', '.join(number(s) for s in panel.scores)}"


def plain(text: str, keep: str = "") -> str:
    """Untrusted text for a terminal or a drawing: control and direction characters become �, but those in `keep`."""
    bad = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    joiners = keep + "\u200d\ufe0f\u200c"
    return "".join(c if c in joiners or unicodedata.category(c) not in bad else "�" for c in text)


def csv_cell(text: str) -> str:
    """Untrusted text that no spreadsheet takes for a formula."""
    said = " ".join(text.split())
    return f"'{said}" if said[:1] in ("=", "+", "-", "@") else said
