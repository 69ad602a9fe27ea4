"""What there is to draw of an attention transfer: per layer what gains and loses, arrows between them, and all of it in words.

Places are those of the layer's panels: a cell of a picture, or a piece of running text (a word, a special token, a token of a
short stream). What flows between tokens of one word is no arrow, and what flows between the same two words is one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from regard.errors import Misuse
from regard.explanation.explanation import Explanation
from regard.explanation.names import patch_name, stream_name, token_name
from regard.explanation.raw_inputs import Text
from regard.explanation.transfer import LayerTransfer, Tokens, Transfer
from regard.report.colour import ColourScale, number, scale_of
from regard.report.view import (
    ChartView,
    PictureView,
    TextPiece,
    TextView,
    class_of,
    fits_texts,
    plain,
    target_of,
    view_of,
)

WEAK = 0.1  # an arrow has at least this share of the layer's strongest
ROUNDING = 1e-3  # of what a row transfers: a larger row sum is no rounding
NOTHING = 1e-6  # of what a row transfers in the strongest layer: what is less is rounding
GOOD = " ✓"
NAMED = 3  # of those that gain, and lose, most
CHIPS = 64  # tokens of a stream of which nothing is known; beyond that there would be no end of them
Spot = tuple[int, float, float]
"""Where an arrow begins or ends: the number of the panel; of a picture x and y in its pixels, of a text the piece and 0."""
Places = dict[tuple[str, int], Spot]
"""Where each token of each stream is drawn."""


@dataclass(frozen=True)
class RunningView:
    """A text, piece by piece (what lies between words has no score); or the tokens of a stream that is neither text nor
    picture: a single one by its name, several by their numbers."""

    stream: str
    name: str
    pieces: list[TextPiece]
    text: bool

    @property
    def scored(self) -> list[TextPiece]:
        """The pieces that are tokens."""
        return [p for p in self.pieces if p.score is not None]

    @property
    def single(self) -> bool:
        """Whether it is one token, as a class token."""
        return not self.text and len(self.scored) == 1


Panel = PictureView | RunningView


@dataclass(frozen=True)
class Arrow:
    """A flow between two places: which, how they are called, how much. A place that is not drawn is None."""

    begins: Spot | None
    ends: Spot | None
    loser: str
    gainer: str
    amount: float


@dataclass(frozen=True)
class LayerView:
    """One layer of one sample: its panels, its arrows (the strongest first), and what it says. `ends`: what gains and loses
    most; `check`: what the row sums say, `row_sum` the largest of them."""

    index: int
    module: str
    looks: str
    panels: list[Panel]
    arrows: list[Arrow]
    amount: float
    sentence: str
    ends: str
    check: str
    row_sum: float


@dataclass(frozen=True)
class TransferView:
    """One sample: all its layers on one scale, and the number of the one that is drawn large."""

    exp: Explanation
    sample: int
    target: str
    layers: list[LayerView]
    large: int
    scale: ColourScale

    @property
    def checks(self) -> list[str]:
        """What the row sums say: in one line where all are rounding, else layer by layer."""
        if all(layer.check.endswith(GOOD) for layer in self.layers):
            most = number(max(layer.row_sum for layer in self.layers))
            return [f"Check: the rows of ∂y/∂S sum to 0 in all {len(self.layers)} layers (largest sum {most}){GOOD}"]
        return ["Check of ∂y/∂S:", *(layer.check for layer in self.layers)]


def view_of_transfer(transfer: Transfer, sample: int = 0, layer: int | None = None) -> TransferView:
    """What there is to draw of one sample. Raises Misuse for a sample that is not there."""
    exp: Explanation = transfer.explanation
    if not 0 <= sample < exp.batch:
        raise Misuse(f"sample {sample} does not exist; the explanation holds {exp.batch}, counted from 0")
    large = transfer.strongest(sample) if layer is None else layer
    sizes = _sizes(transfer, sample)
    panels = [_panels(_of_layer(exp, one), sample, sizes) for one in transfer.layers]
    scale = _scale([p for some in panels for p in some])
    panels = [[replace(p, scale=scale) if isinstance(p, PictureView) else p for p in some] for some in panels]
    every = replace(exp, scores={s: t for one in transfer.layers for s, t in one.streams.items()})
    least = NOTHING * max(float(one.row_size[sample]) for one in transfer.layers)
    layers = [_layer(every, one, own, sample, least) for one, own in zip(transfer.layers, panels, strict=True)]
    return TransferView(exp, sample, target_of(exp, sample), layers, large, scale)


def _of_layer(exp: Explanation, layer: LayerTransfer) -> Explanation:
    """The layer's t as if it were a map."""
    return replace(exp, scores=dict(layer.streams), signed=True, found=None)


def _sizes(transfer: Transfer, sample: int) -> dict[str, list[float]]:
    """Stream -> the most that is transferred at each of its tokens, in any layer: all layers show the same tokens."""
    found: dict[str, list[torch.Tensor]] = {}
    for layer in transfer.layers:
        for stream, t in layer.streams.items():
            found.setdefault(stream, []).append(t[sample].detach().abs().cpu())
    return {stream: torch.stack(every).amax(0).tolist() for stream, every in found.items()}


def _scale(panels: Sequence[Panel]) -> ColourScale:
    """One scale for all layers, made for places and words: tokens that stand for no part of the input may go beyond it."""
    told = [_values(p) for p in panels]
    own, every = ([v for part in told for v in part[i]] for i in (0, 1))
    scale = scale_of(own if any(own) else every, signed=True)
    top = max((abs(v) for v in every if math.isfinite(v)), default=0.0)
    if top <= scale.limit:
        return scale
    return replace(scale, top=top, note=f"largest magnitude {number(top)}, beyond the scale")


def _values(panel: Panel) -> tuple[list[float], list[float]]:
    """The numbers of a panel that are of parts of the input, and all of them."""
    if isinstance(panel, PictureView):
        return ([float(v) for v in panel.cells.ravel()],) * 2
    known = [(p.score, p.special or not panel.text) for p in panel.pieces if p.score is not None]
    return [v for v, special in known if not special], [v for v, _ in known]


# -- panels -----------------------------------------------------------------------------------------------------------


def _panels(exp: Explanation, sample: int, sizes: dict[str, list[float]]) -> list[Panel]:
    """Pictures first, then texts, then streams of a few tokens."""
    if not exp.scores:
        return []
    view = view_of(exp, sample)
    pictures = [p for p in view.panels if isinstance(p, PictureView)]
    texts = [_running(exp, p, sample, sizes[p.stream]) for p in view.panels if isinstance(p, TextView)]
    bare = [p for p in [*view.panels, *view.listed] if isinstance(p, ChartView)]
    return [*pictures, *texts, *(_chips(exp, p, sample, sizes[p.stream]) for p in bare)]


def _running(exp: Explanation, panel: TextView, sample: int, sizes: Sequence[float]) -> RunningView:
    """Words whole, special tokens by their names, and what stands between words. Padding, where all is 0, is left out."""
    pieces = list(_pieces(panel.text, exp.scores[panel.stream][sample].tolist(), sizes))
    return RunningView(panel.stream, panel.name, _cited(pieces), text=True)


def _cited(pieces: Sequence[TextPiece]) -> list[TextPiece]:
    """Pieces whose notes say what a sentence calls them: “dull”, or the 2nd “dull” of three; special tokens by their names."""
    count = Counter(p.text for p in pieces if p.tokens)
    seen: Counter[str] = Counter()
    named = []
    for piece in pieces:
        if piece.tokens and not piece.special:
            seen[piece.text] += 1
            place = f"the {_ordinal(seen[piece.text])} " if count[piece.text] > 1 else ""
            piece = replace(piece, note=f"{place}“{piece.text}”")
        named.append(piece)
    return named


def _ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    last = 0 if number % 100 in (11, 12, 13) else number % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"


def _pieces(text: Text, scores: Sequence[float], sizes: Sequence[float]) -> Iterator[TextPiece]:
    at = 0
    for tokens in _units(text):
        start, end = _span(text, tokens)
        special = text.special[tokens[0]]
        score = sum(scores[t] for t in tokens)
        if special and end <= start:
            if sizes[tokens[0]]:
                yield TextPiece(" ")
                yield TextPiece(text.tokens[tokens[0]], score, True, tokens=tokens)
                yield TextPiece(" ")
            continue
        if start > at:
            yield TextPiece(text.text[at:start])
        yield TextPiece(text.text[start:end] or text.tokens[tokens[0]], score, special, tokens=tokens)
        at = max(at, end)
    if at < len(text.text):
        yield TextPiece(text.text[at:])


def _units(text: Text) -> list[tuple[int, ...]]:
    """Tokens of one word together, in the order in which they stand."""
    units: list[list[int]] = []
    words = text.word_of
    for token in range(len(text.tokens)):
        same = token > 0 and words[token] is not None and words[token] == words[token - 1]
        units[-1].append(token) if same else units.append([token])
    return [tuple(u) for u in units]


def _span(text: Text, tokens: Sequence[int]) -> tuple[int, int]:
    """From where to where some tokens stand in their text; a word's first token without the space before it."""
    word = text.word_of[tokens[0]]
    if word is not None:
        return text.words[word]
    start, end = text.offsets[tokens[0]][0], text.offsets[tokens[-1]][1]
    while start < end and text.text[start].isspace():
        start += 1
    return start, end


def _chips(exp: Explanation, panel: ChartView, sample: int, sizes: Sequence[float]) -> RunningView:
    """A stream's tokens by name; of a long one those that most is transferred at."""
    shown = sorted(np.argsort(-np.array(sizes), kind="stable")[:CHIPS].tolist())
    pieces = []
    for token in shown:
        name = token_name(exp, panel.stream, token, sample)
        text = name if len(panel.scores) == 1 else str(token + 1)
        pieces += [TextPiece(text, panel.scores[token], note=name, tokens=(token,)), TextPiece(" ")]
    return RunningView(panel.stream, panel.name, pieces[:-1], text=False)


# -- arrows -----------------------------------------------------------------------------------------------------------


def _layer(exp: Explanation, layer: LayerTransfer, panels: list[Panel], sample: int, least: float) -> LayerView:
    """least: a layer in which no row transfers more than that transfers nothing but rounding."""
    places = _places(_of_layer(exp, layer), panels, sample)
    nothing = float(layer.row_size[sample]) <= least
    arrows = [] if nothing else _arrows(exp, layer, panels, places, sample)
    amount = float(layer.amount[sample])
    looks = ""
    if set(layer.queries) != set(layer.streams):
        sides = [" and ".join(stream_name(exp, s) for s in side) for side in (layer.queries, layer.streams)]
        looks = f"{sides[0]} → {sides[1]}"
    sentence = _sentence(exp, layer.index, arrows, sample)
    ends, check, row_sum = (
        "" if nothing else _ends(exp, layer, panels, places, sample),
        _check(layer, sample, least),
        float(layer.row_sum[sample]),
    )
    return LayerView(layer.index, layer.name, looks, panels, arrows, amount, sentence, ends, check, row_sum)


def _places(exp: Explanation, panels: Sequence[Panel], sample: int) -> Places:
    """Where each token is drawn."""
    places: Places = {}
    numbered = _numbered(exp, sample)
    for i, panel in enumerate(panels):
        if isinstance(panel, RunningView):
            units = [(n, t) for n, p in enumerate(panel.pieces) for t in p.tokens]
            places |= {(panel.stream, t): (i, float(n), 0.0) for n, t in units}
        elif panel.stream in numbered:
            stream, cells = numbered[panel.stream]
            for (row, column), token in np.ndenumerate(cells):
                places[stream, int(token)] = (i, *centre(panel, row, column))
    return places


def _numbered(exp: Explanation, sample: int) -> dict[str, tuple[str, Any]]:
    """Panel of a picture -> its stream, and the token at each cell. Left out where cells are no tokens (tiles drawn as one)."""
    found = {}
    for stream, scores in exp.scores.items():
        numbers = torch.arange(scores.shape[1], dtype=torch.float32).expand(scores.shape)
        for panel in view_of(replace(exp, scores={stream: numbers}), sample).panels:
            if isinstance(panel, PictureView):
                cells = panel.cells
                if bool((cells == np.rint(cells)).all()) and len(np.unique(cells)) == cells.size:
                    found[panel.stream] = (stream, cells)
    return found


def centre(panel: PictureView, row: int, column: int) -> tuple[float, float]:
    """The middle of a cell, or of a region, in the picture's pixels (in cells where the picture is not known)."""
    if panel.regions:
        box = panel.regions[column]
        return (box.left + box.right) / 2, (box.top + box.bottom) / 2
    rows, columns = panel.cells.shape
    if panel.picture is None:
        return column + 0.5, row + 0.5
    left, top, right, bottom = panel.raster.box(panel.picture.box)
    return left + (column + 0.5) / columns * (right - left), top + (row + 0.5) / rows * (bottom - top)


def _arrows(
    exp: Explanation,
    layer: LayerTransfer,
    panels: Sequence[Panel],
    places: Places,
    sample: int,
) -> list[Arrow]:
    """The strongest flows between places, opposite ones set off, the largest first."""
    sums: dict[tuple[str, str], Arrow] = {}
    for flow in layer.flows[sample]:
        begins, ends = (_spot(end, places) for end in (flow.loser, flow.gainer))
        loser, gainer = (
            _named(exp, end, spot, panels, sample) for end, spot in ((flow.loser, begins), (flow.gainer, ends))
        )
        if begins is not None and begins == ends:
            continue
        key = (f"{begins}{loser}", f"{ends}{gainer}")
        known = sums.get(key)
        sums[key] = Arrow(begins, ends, loser, gainer, flow.amount + (known.amount if known else 0.0))
    net = [replace(a, amount=a.amount - (sums[k, j].amount if (k, j) in sums else 0.0)) for (j, k), a in sums.items()]
    most = max((a.amount for a in net), default=0.0)
    return sorted((a for a in net if a.amount > WEAK * most), key=lambda a: -a.amount)


def _spot(end: Tokens, places: Places) -> Spot | None:
    """Where tokens are drawn: in the middle of them."""
    spots = [places[end.stream, t] for t in end.tokens if (end.stream, t) in places]
    if not spots:
        return None
    panel = spots[0][0]
    xs, ys = zip(*[(x, y) for p, x, y in spots if p == panel], strict=True)
    return (panel, sum(xs) / len(xs), sum(ys) / len(ys)) if any(ys) else spots[0]


def _named(exp: Explanation, end: Tokens, spot: Spot | None, panels: Sequence[Panel], sample: int) -> str:
    """What a place is called: a word, a patch, several patches by the first and the last of them."""
    panel = None if spot is None else panels[spot[0]]
    if spot is not None and isinstance(panel, RunningView):
        piece = panel.pieces[int(spot[1])]
        return piece.note or piece.text
    names = [token_name(exp, end.stream, t, sample) for t in (end.tokens[0], end.tokens[-1])]
    if len(end.tokens) == 1:
        return names[0]
    if end.stream in exp.grid and names[0].startswith(patch_name(0, 0)[:5]):
        return f"patches {names[0].removeprefix('patch ')}–{names[1].removeprefix('patch ')}"
    return f"{names[0]}–{names[1]}"


# -- words ------------------------------------------------------------------------------------------------------------


def _sentence(exp: Explanation, layer: int, arrows: Sequence[Arrow], sample: int) -> str:
    """What the strongest arrow says, in one plain sentence."""
    what = _what(exp, sample)
    if not arrows:
        return f"In layer {layer}, {what} does not depend on where attention goes."
    first = arrows[0]
    return f"In layer {layer}, {what} would rise if attention moved from {first.loser} to {first.gainer}."


def _ends(exp: Explanation, layer: LayerTransfer, panels: Sequence[Panel], places: Places, sample: int) -> str:
    """What gains most, and what loses most, by name."""
    every, parts = list(_at_places(layer, places, sample)), []
    for said, sign in (("gain", 1), ("lose", -1)):
        some = sorted(((sign * v, end, spot) for v, end, spot in every), key=lambda p: -p[0])[:NAMED]
        most = [p for p in some if p[0] > max(WEAK * some[0][0], 0.0)]
        named = [f"{_named(exp, end, spot, panels, sample)} {number(v)}" for v, end, spot in most]
        parts += [f"{said}: {', '.join(named)}"] if named else []
    return "Most to " + "; most to ".join(parts) + "." if parts else ""


def _at_places(layer: LayerTransfer, places: Places, sample: int) -> Iterator[tuple[float, Tokens, Spot]]:
    """t at every place that is drawn: of a word the sum over its tokens."""
    values = {stream: t[sample].tolist() for stream, t in layer.streams.items()}
    at: dict[Spot, list[tuple[str, int]]] = {}
    for token, spot in places.items():
        at.setdefault(spot, []).append(token)
    for spot, tokens in at.items():
        stream = tokens[0][0]
        numbers = tuple(i for _, i in tokens)
        yield sum(values[stream][i] for i in numbers), Tokens(stream, numbers), spot


def _what(exp: Explanation, sample: int) -> str:
    """The target in a sentence: the prediction and its name, or what else is explained."""
    explained, predicted = (class_of(exp, c, sample) for c in (exp.receipt.explained, exp.receipt.predicted))
    said = target_of(exp, sample)
    unnamed = exp.receipt.classes == "token" and explained not in exp.names.values()
    if explained is None or fits_texts(exp) or exp.found is not None or unnamed:
        return f"the target ({said})"
    if explained == predicted:
        return f"the prediction {explained}" if exp.target.startswith("logit") else f"the target ({said})"
    return f"the target ({said}; the model predicts {predicted})"


def _check(layer: LayerTransfer, sample: int, least: float) -> str:
    """What the sums of rows say."""
    found, size = float(layer.row_sum[sample]), float(layer.row_size[sample])
    if size <= least:
        return f"layer {layer.index}: nothing is transferred{GOOD}"
    if found <= ROUNDING * size:
        sums = f"largest sum {number(found)}; a row transfers up to {number(size)}"
        return f"layer {layer.index}: every row sums to 0 ({sums}){GOOD}"
    rest, weights = number(float(layer.elsewhere[sample])), "the weights of its tokens do not sum to 1"
    return (
        f"layer {layer.index}: rows sum to as much as {number(found)} (a row transfers up to {number(size)}): {weights} "
        f"(an attention sink takes a part, or heads are mixed after the softmax); what is no token gains {rest} in all"
    )


def lead() -> str:
    """What a transfer is, in the words of its page."""
    return (
        "Attention in a row always sums to 1: what one token gains, others lose. Orange tokens would raise the target by "
        "getting more attention, blue ones by getting less; an arrow leads from what should lose to what should gain."
    )


def unit(view: TransferView) -> str:
    """What the numbers are."""
    said = "first-order change of the target per unit of attention score (before the softmax), summed over heads and query rows"
    pictured = any(isinstance(p, PictureView) and not p.regions for layer in view.layers for p in layer.panels)
    return said + "; patches are named by row and column" * pictured


def plain_table(transfer: Transfer) -> str:
    """The transfer as text: for each sample a sentence, and a line a layer."""
    out = []
    for sample in range(transfer.explanation.batch):
        view = view_of_transfer(transfer, sample)
        heads = ("layer", "transferred", "from", "to", "row sum", "module")
        title = [f"sample {sample}"] if transfer.explanation.batch > 1 else []
        out += [*title, view.layers[view.large].sentence, "", *_lines([heads, *_rows(view)]), ""]
    return plain("\n".join(out[:-1]), keep="\n")


def _rows(view: TransferView) -> Iterator[tuple[str, ...]]:
    for layer in view.layers:
        ends = (layer.arrows[0].loser, layer.arrows[0].gainer) if layer.arrows else ("", "")
        yield str(layer.index), number(layer.amount), *ends, number(layer.row_sum), layer.module


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under one another."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


__all__ = ["Arrow", "LayerView", "RunningView", "TransferView", "lead", "plain_table", "unit", "view_of_transfer"]
