"""Token Activation Map (Li et al., ICCV 2025): where in a picture a model that writes about it sees the token that it writes,
less what the words before it make it see there. formulas.md section 10."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from regard.attribution.context import Context, Relevance
from regard.attribution.removal.runs import content
from regard.errors import Misuse
from regard.recording import Recording
from regard.recording.states import State
from regard.recording.tokens import rasters
from regard.recording.tokens.tags import STRIDE, Stream
from regard.target import row_at, scores

ONLY = (
    "token_activation_map is of models that score a token of their vocabulary at every position of one sequence, the picture's "
    "among them, and of the logit of one token at one position (Target.next_token): {}"
)


def token_activation_map(context: Context, *, filter: bool = True) -> Relevance:
    """(M_k − α I)₊ on the picture, u on the words before.

    M_k: the logit of the explained token k at each position of the picture; u_j: at the position of word j; both clamped at
    zero. I = Σ_j u_j M_j / Σ_j u_j over the words j that are another token than k; α is the least-squares fit of I to M_k. The
    picture's and the words' scores are then brought to 0 to 1 together. filter: on every picture's grid a rank-Gaussian filter
    of 3 x 3. Where several patches make one position of the sequence, each has its score.

    Our reading: words are all tokens of the text up to the position that k is read at, but for special ones and padding.
    """
    recording = context.recording
    seen = Sequence.of(context)
    out = recording.zeros()
    for b in range(recording.batch):
        rows = seen.rows[b]
        picture, words = (seen.visual[b] & seen.before[b]).nonzero()[:, 0], seen.words[b].nonzero()[:, 0]
        if not len(picture):
            raise Misuse(ONLY.format("no position of the picture stands before it"))
        logits, k, ids = seen.logits[b], int(seen.token[b]), seen.ids[b]
        M, u = logits[picture, k].clamp(min=0), logits[words, k].clamp(min=0)
        other = ids[words] != k
        I = interference(u[other], logits[picture][:, ids[words][other]].clamp(min=0))
        both = between_0_and_1(torch.cat([without(M, I), u]))
        out[b, rows[picture]], out[b, rows[words]] = both[: len(M)].to(out), both[len(M) :].to(out)
        patches = patches_of(recording, rows[picture])
        if filter:
            out[b] = filtered(recording, out[b], rows[picture], patches)
        out[b, rows[picture]] *= (patches > 0).sum(1)  # rows that were merged share what they have
    return out


# -- the formula ----------------------------------------------------------------------------------------------------------


def interference(u: Float[Tensor, " word"], M: Float[Tensor, "patch word"]) -> Float[Tensor, " patch"]:
    """Σ_j u_j M_j / Σ_j u_j; 0 where no word has a weight."""
    total = u.sum()
    return (M * u).sum(1) / total if float(total) > 0 else M.new_zeros(len(M))


def without(M: Float[Tensor, " patch"], I: Float[Tensor, " patch"]) -> Float[Tensor, " patch"]:
    """(M − α I)₊, α = ⟨M, I⟩ / ⟨I, I⟩."""
    size = I.square().sum()
    alpha = (M * I).sum() / size if float(size) > 0 else 0.0
    return (M - alpha * I).clamp(min=0)


def between_0_and_1(values: Float[Tensor, " some"]) -> Float[Tensor, " some"]:
    """The least at 0 and the largest at 1; all 0 where they are one value."""
    span = values.max() - values.min()
    return (values - values.min()) / span if float(span) > 0 else torch.zeros_like(values)


def rank_gaussian(cells: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """Each cell's 3 x 3 values in order, weighed by exp(−a²/2σ²) over their ranks a = −4 to 4, σ = their deviation over their
    mean; 0 where the mean is. The border is mirrored."""
    padded = F.pad(cells[None, None], (1, 1, 1, 1), mode="reflect")
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1).reshape(*cells.shape, 9).sort(-1).values
    mean, sigma = windows.mean(-1), windows.std(-1, correction=0)
    sigma = sigma / torch.where(mean > 0, mean, 1.0)
    rank = torch.arange(-4, 5, dtype=cells.dtype)
    flat = sigma <= 0  # all nine are one value
    weights = torch.exp(-rank.square() / (2 * torch.where(flat, 1.0, sigma)[..., None].square()))
    found = (windows * weights).sum(-1) / weights.sum(-1)
    return torch.where(mean > 0, found, 0.0)


# -- the sequence ---------------------------------------------------------------------------------------------------------


class Sequence(NamedTuple):
    """What stands at each position of the sequence that a model scores, the logits there, and what is asked.

    visual, words: what of it is the picture's, and which are words up to the position that is read. before: positions up to
    that one.
    """

    logits: Float[Tensor, "batch position token"]
    rows: Int[Tensor, "batch position"]
    ids: Int[Tensor, "batch position"]
    visual: Bool[Tensor, "batch position"]
    words: Bool[Tensor, "batch position"]
    before: Bool[Tensor, "batch position"]
    token: Int[Tensor, " batch"]

    @classmethod
    def of(cls, context: Context) -> Sequence:
        """Read off a recording. Raises Misuse where it has no such sequence."""
        recording, again = context.recording, context.again
        assert again is not None
        position = (again.target.made or ("", {}))[1].get("position")
        if again.classes is None or position is None or again.shared is not None:
            raise Misuse(ONLY.format(f"the target here is {again.target.label}"))
        if not recording.whole:
            raise Misuse(ONLY.format("whose tokens its rows are is not known"))
        logits = scores(recording.output, None)
        state = next((s for s in reversed(recording.states) if _scored(s, logits)), None)
        if state is None:
            raise Misuse(ONLY.format("the rows of its scores are not those of a state between its blocks"))
        rows = (state.ids % STRIDE).expand(state.value.shape).amax(2)
        texts = [s for s in recording.streams if s.of_input and _is_text(recording, s)]
        pictures = [s for s in recording.streams if recording.is_picture(s)]
        ids, visual = torch.full_like(rows, -1), torch.zeros_like(rows, dtype=torch.bool)
        for stream in texts:
            own = (rows >= stream.first) & (rows < stream.first + stream.count)
            given = recording.given.first(stream.name)
            ids = torch.where(own, given.cpu().gather(1, (rows - stream.first).clamp(0, stream.count - 1)), ids)
        for stream in pictures:
            visual |= torch.isin(rows, _rows_of(recording, stream))
        if not bool(visual.any()):
            raise Misuse(ONLY.format("no patch of a picture stands in it"))
        at = row_at(position, logits, recording.inputs, recording.output)
        before = torch.arange(rows.shape[1]) <= at[:, None].cpu()
        kept = content(recording, context.reading, recording.zeros())
        words = (ids >= 0) & before & kept.gather(1, rows)
        return cls(logits.detach().cpu().double(), rows, ids, visual, words, before, again.classes.cpu())


def _scored(state: State, logits: Tensor) -> bool:
    """Whether a state's rows are those of the scores."""
    return state.key.side == "out" and state.value.ndim == 3 and state.value.shape[:2] == logits.shape[:2]


def _is_text(recording: Recording, stream: Stream) -> bool:
    ids = recording.given.tensors.get(stream.name)
    return ids is not None and not ids.is_floating_point()


def _rows_of(recording: Recording, stream: Stream) -> Int[Tensor, " row"]:
    """A stream's rows, and those that were made of them."""
    found = torch.arange(stream.first, stream.first + stream.count)
    for merge in recording.merges:
        made = torch.isin(merge.sources, found).any(1)
        found = torch.cat([found, merge.rows[made]])
    return found


# -- the filter -----------------------------------------------------------------------------------------------------------


def patches_of(recording: Recording, rows: Int[Tensor, " position"]) -> Float[Tensor, "position row"]:
    """How much of each of some rows is made of each patch."""
    own = torch.zeros(len(rows), recording.rows)
    own[torch.arange(len(rows)), rows] = 1
    return recording.settled(own)


def filtered(
    recording: Recording,
    scores: Float[Tensor, " row"],
    picture: Int[Tensor, " position"],
    patches: Float[Tensor, "position row"],
) -> Float[Tensor, " row"]:
    """Scores with those at the rows of a picture filtered on its grid, each picture and tile by itself."""
    out = scores.clone()
    where = (patches @ _places(recording)) / patches.sum(1, keepdim=True).clamp(min=1e-30)  # (position, 3)
    for number in where[:, 0].round().unique():
        mine = (where[:, 0].round() == number).nonzero()[:, 0]
        cells = [where[mine, i].round(decimals=3).unique(return_inverse=True) for i in (1, 2)]
        height, width = (len(values) for values, _ in cells)
        if height * width != len(mine) or min(height, width) < 2:
            continue  # no grid, or none that has a border to mirror
        at = cells[0][1] * width + cells[1][1]
        grid = torch.zeros(height * width, dtype=torch.float64)
        grid[at] = out[picture[mine]].double()
        out[picture[mine]] = rank_gaussian(grid.view(height, width)).flatten()[at].to(out)
    return out


def _places(recording: Recording) -> Float[Tensor, "row 3"]:
    """Of each row that is a patch: the number of its picture (or frame, or tile), and where it lies in it."""
    out, first = torch.zeros(recording.rows, 3), 0
    merge = rasters.merge_size(getattr(recording.model, "config", None))
    for stream in recording.streams:
        if stream.grid is None:
            continue
        every = rasters.grids(stream.name, stream.count, recording.inputs, merge) if stream.packed else None
        order = torch.arange(stream.count) if every is None else rasters.order(every, merge)
        place = 0
        for grid in every or [stream.grid]:
            *_, height, width = grid
            count = int(torch.tensor(grid).prod())
            n = torch.arange(count)
            at = torch.stack([first + n // (height * width), n % (height * width) // width, n % width], 1)
            out[stream.first + order[place : place + count]] = at.float()
            place += count
            first += count // (height * width)
    return out


__all__ = ["token_activation_map"]
