"""A mask over the keys of attention, learned on the frozen model for one target: SparseBERT's differentiable attention mask
(Shi et al., ICML 2021; formulas.md section 10).

M_j is 1 where token j may be looked at, 0 where not, in every attention call, head and query row alike. It minimises

    |y − y(M)| + λ ‖M‖₁,    y(M) the target where every A is A ⊙ M, its rows brought back to their sums.

M_j is 1 with the probability p_j = σ(l_j), and is drawn by a Gumbel sigmoid with the gradient passed straight through:

    z = σ((l + log u − log(1 − u)) / τ), u uniform in (0, 1);    M = 1[z > 1/2] forward, dM = dz backward.

Our reading: the paper learns one mask for all inputs along with the model, we learn one for each input with the model as it is;
‖M‖₁ is its expectation, Σ p; and λ = `penalty` · |y − y(0)| / n, n keys, so that a key is worth its place where y moves by more
than `penalty` times an even share. A ⊙ M is used and not log M in the scores, which are the same values, for its gradient is
finite at M = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.attribution.context import Context, Relevance
from regard.attribution.random import fingerprint
from regard.attribution.removal.explained import config_alone
from regard.attribution.removal.lime import check_positive
from regard.attribution.removal.runs import content
from regard.attribution.rerun import Rerun
from regard.errors import Misuse, ModelError, NonFinite, OtherRows
from regard.explanation.receipt import LearnedMask
from regard.kinds import Count
from regard.recording import Recording
from regard.recording.edits import WeighKeys
from regard.recording.gradient import gradient
from regard.recording.tokens.tags import Merge

MOST = 200
"""Steps: more are refused."""
START = 2.0
"""l before the first step: each key is kept with a probability of 0.88."""
TEMPERATURE = 1.0
SAME = 1e-5
"""A difference of y under so much of max(1, |y|) is rounding, and counts as none: its sign is chance."""
KEPT = 6
"""How many tensors of the size of A a run with a mask keeps for its gradient, beside what the model makes itself."""

Key = Float[Tensor, " key"]
Draw = Callable[[], Key]


def attention_mask(
    context: Context, *, steps: Count = 100, penalty: float | int = 1.0, rate: float | int = 0.1
) -> Relevance:
    """The probability with which each key is kept, 0 to 1.

    steps: of Adam, 200 at most; rate: its rate. penalty: λ, in the share of y that an average key accounts for; 0 keeps all.
    Special tokens, padding, tokens that are parameters and the one position that is read have no mask: attention may look at
    them in any case (not at padding, at which it never does), and they score 0. Rows that are made of several tokens have the
    mean of their M. A mean over tokens at the end counts all of them: M is about what attention looks at.
    """
    check_positive("penalty", penalty, zero=True)
    check_positive("rate", rate)
    if steps > MOST:
        raise Misuse(f"steps is {MOST} at most, not {steps}: the rate can be raised instead (rate={rate})")
    _refuse_several_values(context.recording)
    _refuse_cut_off(context.recording)
    out, masks = context.recording.zeros(), []
    for first, runs in _side_by_side(context):
        p = learned(runs, _noise(context, first, runs.can), float(penalty), steps, float(rate))
        out[first : first + len(runs.can)][runs.can] = p.to(out)
        masks.append(_told(runs, p, float(penalty), steps))
    context.notes.extend(config_alone(context))
    context.mask = LearnedMask.joined(masks)
    context.nodes = steps + 1  # a run without any key, and one with those that are kept
    return out


@dataclass
class MaskedRuns:
    """The target on some samples, side by side, where attention looks at some keys alone.

    can: the keys that have a mask. y: the target's values: one a sample, or all of them together where samples rest on one
    another.
    """

    again: Rerun
    merges: Sequence[Merge]
    can: Bool[Tensor, "sample row"]
    y: Float[Tensor, " value"]

    @property
    def apart(self) -> bool:
        """Whether each sample has a value of its own."""
        return self.again.shared is None and len(self.y) == len(self.can)

    def at(self, m: Key) -> Float[Tensor, " value"]:
        """y(M)."""
        M = torch.ones(self.can.shape, dtype=m.dtype).masked_scatter(self.can, m)
        for merge in self.merges:
            shares = merge.shares.abs().to(m)
            made = (M[:, merge.sources] * shares).sum(2) / shares.sum(1).clamp(min=1e-12)
            M = M.index_copy(1, merge.rows, made)
        left = self.again.run([WeighKeys(M)])
        if not self._merged_alike(left.trail.merges):
            raise OtherRows
        y = self.again.y(left.output).double().cpu()
        if not bool(torch.isfinite(y).all()):
            raise NonFinite("the target is NaN or infinite where attention looks at some of the keys alone")
        return y

    def _merged_alike(self, merges: Sequence[Merge]) -> bool:
        """Whether a run's own merges are the recorded run's, which M at merged rows was made with."""
        known = self.merges[max(0, len(self.merges) - len(merges)) :]
        return len(known) == len(merges) and all(
            torch.equal(a.rows, b.rows) and torch.equal(a.sources, b.sources)
            for a, b in zip(known, merges, strict=True)
        )

    @cached_property
    def none(self) -> Float[Tensor, " value"]:
        """y(0)."""
        with torch.no_grad():
            return self.at(torch.zeros(int(self.can.sum()), dtype=torch.float64))

    def price(self, penalty: float) -> Key:
        """λ of each key."""
        moved = torch.maximum((self.y - self.none).abs(), 100 * SAME * self.y.abs().clamp(min=1))
        counts = self.can.sum(1).clamp(min=1)
        each = moved / counts if self.apart else (moved.sum() / counts.sum()).expand(len(counts))
        return penalty * each.repeat_interleave(self.can.sum(1))

    def distance(self, m: Key) -> Float[Tensor, ""]:
        """Σ |y − y(M)| over the values."""
        d = (self.y - self.at(m)).abs()
        return torch.where(d > SAME * self.y.abs().clamp(min=1), d, 0.0).sum()


def learned(runs: MaskedRuns, noise: Draw, penalty: float, steps: int, rate: float) -> Key:
    """p after so many steps of Adam on |y − y(M)| + λ Σ p."""
    price = runs.price(penalty)
    logits = torch.full_like(price, START).requires_grad_()
    adam = torch.optim.Adam([logits], lr=rate)
    for _ in range(steps if len(price) else 0):
        with torch.enable_grad():
            loss = runs.distance(drawn(logits, noise())) + (price * logits.sigmoid()).sum()
        logits.grad = gradient(loss, [logits])[0]
        adam.step()
    return logits.detach().sigmoid()


def drawn(logits: Key, u: Key) -> Key:
    """M, 0 or 1, with the gradient of the relaxed draw."""
    z = ((logits + u.log() - (1 - u).log()) / TEMPERATURE).sigmoid()
    return (z > 0.5).to(z) + z - z.detach()


def _told(runs: MaskedRuns, p: Key, penalty: float, steps: int) -> LearnedMask:
    """What is kept, and what is left of y with that alone."""
    kept = p > 0.5
    with torch.no_grad():
        left = runs.at(kept.double())
    of_keys = torch.zeros(runs.can.shape, dtype=torch.bool).masked_scatter(runs.can, kept)
    keys, some = (t.sum(1) if runs.apart else t.sum().expand(len(runs.y)) for t in (runs.can, of_keys))
    return LearnedMask(keys.float(), some.float(), left.float(), runs.none.float(), penalty, steps)


def _side_by_side(context: Context) -> Iterator[tuple[int, MaskedRuns]]:
    """All samples, as many at a time as the memory budget allows; each part with the number of its first sample."""
    recording, again = context.recording, context.again
    assert again is not None
    y = context.gradients.value.double().cpu()
    can = content(recording, context.reading, context.r) & _looked_at(recording)
    whole = MaskedRuns(again, recording.merges, can, y)
    count = len(can)
    if whole.apart and again.can_be_cut:
        maps = sum(c.shape[0] * c.shape[1] * c.shape[2] * c.shape[3] for c in recording.calls)
        one = (recording.made + KEPT * recording.precision.itemsize * maps) // count
        count = max(1, recording.budget // max(1, one))
    if count >= len(can):
        yield 0, whole
        return
    for first in range(0, len(can), count):
        some = slice(first, first + count)
        yield first, MaskedRuns(again.of_samples(first, len(can[some])), recording.merges, can[some], y[some])


def _looked_at(recording: Recording) -> Bool[Tensor, "batch row"]:
    """The tokens that are keys of some call, or that some key is made of."""
    keys = recording.zeros()
    for call in recording.calls:
        keys += recording.scatter(torch.ones(call.keys.shape), call.keys)
    return recording.settled(keys) != 0


def _noise(context: Context, first: int, can: Bool[Tensor, "sample row"]) -> Draw:
    """Uniform numbers, one a key, drawn for each sample from the seed and from its own input: no batch mate has a say."""
    seeds = [context.seed ^ fingerprint(context.recording, first + i) for i in range(len(can))]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    counts = can.sum(1).tolist()
    tiny = torch.finfo(torch.float64).tiny

    def draw() -> Key:
        each = [torch.rand(n, generator=g, dtype=torch.float64) for n, g in zip(counts, generators, strict=True)]
        return torch.cat(each).clamp(min=tiny)

    return draw


def _refuse_several_values(recording: Recording) -> None:
    for call in recording.calls:
        if call.weights is not None:
            raise Misuse(
                f"the map of attention call {call.index} ({call.module or 'the model itself'}) multiplies several values, and "
                "cannot be masked; occlusion and lime take tokens away without it"
            )


def _refuse_cut_off(recording: Recording) -> None:
    """A mask whose gradient does not come through would be one that only its price has shaped."""
    if cut := [str(c.index) for c in recording.calls if c.enclosed or c.detached]:
        raise ModelError(
            f"no gradient reaches a mask in attention calls {', '.join(cut)}: the model switches gradients off around them "
            "(torch.no_grad(), or a torch.autograd.Function of its own); occlusion and lime need none"
        )


__all__ = ["attention_mask", "drawn", "learned"]
