"""Class rewriting: the smallest change of a picture's pixels that makes a model take it for another class.

min ‖δ‖ subject to argmax f(x + δ) = c′, by projected gradient, in L∞ or L2. Part of "Transformer Interpretability from
Perspective of Attention and Gradient" (arXiv 2605.11392); that the search is by momentum and bisection, and what `internal`
marks, is our reading.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.editing.asked import Classes, Classifier, Logits, Request, classes, picture_of
from regard.editing.budget import BUDGETS, checked_budget
from regard.editing.pixel_scale import PixelScale
from regard.editing.projected import HAIR, NORMS, Ball, Change, Norm, Sought, norm_of, search, smallest, wide
from regard.editing.within import INTERNAL, Mask, before_and_after, internal, mask_of
from regard.errors import Misuse, nearest
from regard.explanation.rewriting import Rewriting
from regard.kinds import Within, check_kind
from regard.recording.ambient import our_own
from regard.recording.inputs import Inputs
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse

Told = Callable[[str, int, int], None]
ROUNDING = 1e-6
"""What is left of a budget, as a share, for the rounding of float32."""
HALVINGS = 6
"""How many searches a bisection is thought to take when it is told how far it is."""
NO_SSIM = "SSIM was not measured: it needs scikit-image (pip install 'regard[eval]') and pictures of 7 pixels or more"
SSIM_SIDE = 7
NO_MAPS = "there are no maps before and after: no attention over a grid of the picture's tokens can be followed"


def rewrite(
    model: nn.Module,
    inputs: Any,
    to: Any,
    keep: Any = None,
    within: Any = None,
    norm: str = "linf",
    budget: float | int | str | None = None,
    minimal: bool = False,
    *,
    mean: Any = None,
    std: Any = None,
    low: float | int | None = None,
    high: float | int | None = None,
    levels: int | None = None,
    steps: int = 40,
    restarts: int = 1,
    seed: int = 0,
    maps: bool = True,
    told: Told | None = None,
) -> Rewriting:
    """Change pictures as little as can be so that the model takes them for another class: class rewriting.

    A test of a model you are responsible for: it shows how little holds its answers up. The change lives at the size of the
    model's input, and pixels stay within their range.

    Args:
        model: a classifier of pictures, used as it is, and left as found (also after an error).
        inputs: as in `regard.explain`; one of them is a picture, a floating tensor (batch, channel, row, column).
        to: the class to be taken for: an int, or one per sample in a (batch,) tensor.
        keep: a class that is to stay the second, likewise: a picture of two classes. `success` then asks for both.
        within: where pixels may change: a mask (row, column) or (batch, row, column), or "internal": the tokens that speak for
            the new class rather than the old one by corrected attention. Pixels elsewhere stay exactly as they are.
        norm: "linf" (the largest change of a pixel) or "l2".
        budget: the most that the norm may be, in pixels, such as 2/255 or "2/255" (default: 4/255 of
            their range in L∞, 0.5 in L2).
        minimal: look for the smallest budget that suffices, by bisection, instead of for the surest change within it.
        mean, std: how pixels were normalised, x = (pixel − mean) / std; a number, or one per channel. Default: they were not.
        low, high: the range of pixels (default: 0 to 1, which the result's notes say).
        levels: how many steps that range has in a file, such as 255; the change is then a whole number of them.
        steps: gradient steps of one search. restarts: further searches, from noise, of what was not found. seed: of that noise.
        maps: also make corrected-attention maps of both classes before and after.
        told: called with ("rewriting", steps done, steps there may be) as it goes on.

    Returns:
        A `Rewriting`. A picture that has the class already is left as it is. `success` says whether the class was reached.

    Raises ModelError for a model that does not classify pictures, Misuse and InputError for arguments that do not fit.
    """
    kind = _checked(norm, steps, restarts, seed)
    refuse(model, False)
    with rng_kept(model) as rng, our_own():
        given = Inputs.of(model, inputs)
        asked, before = _asked(model, given, to, keep, (mean, std, low, high, levels), rng[0])
        allowed = _within(within, asked, before.argmax(1))
        task = _Task(asked, kind, _budget(budget, kind, asked.scale), minimal, allowed, steps, restarts, seed, told)
        sought = task.run()
        after = asked.changed(sought.delta)
        with torch.no_grad():
            found = _measured(task, sought, before, asked.model.log_probabilities(after), after)
    if maps:
        _add_maps(found, model, given, after)
    return found


def _checked(norm: str, steps: Any, restarts: Any, seed: Any) -> Norm:
    """The norm. Raises UnknownName for another word, Misuse for counts that are none."""
    for name, value, least in (("steps", steps, 1), ("restarts", restarts, 0), ("seed", seed, 0)):
        most = (1 << 63) - 1 if name == "seed" else 100_000
        check_kind(f"{name}=", value, Annotated[int, Within(least, most)])
    for known in NORMS:
        if norm == known:
            return known
    raise nearest(str(norm), NORMS, "norm")


def _asked(
    model: nn.Module, given: Inputs, to: Any, keep: Any, said: tuple[Any, ...], rng: Tensor
) -> tuple[Request, Logits]:
    """The model with its pictures and the classes wanted, and its log-probabilities before."""
    stream = picture_of(model, given)
    x = given.tensors[stream].detach()
    x = x if x.dtype == torch.float64 else x.float()
    scale = PixelScale.of(x, *said)
    classifier = Classifier(model, given, stream, rng)
    before = classifier.met()
    wanted, kept = (None if c is None else classes(c, n, before) for n, c in (("to", to), ("keep", keep)))
    if wanted is None:
        raise Misuse("to= is the class to be taken for; give its number")
    if kept is not None and bool((kept == wanted).any()):
        raise Misuse("keep= and to= are the same class; keep= is another one, which is to stay the second")
    return Request(classifier, scale, x, scale.levels_of(x), wanted, kept), before


def _budget(budget: float | int | str | None, norm: Norm, scale: PixelScale) -> float:
    """The budget in pixels. Raises Misuse for one that is no size, or that nothing can be changed in."""
    span = scale.high - scale.low
    if budget is None:
        return BUDGETS[norm] * span
    budget = checked_budget(budget)
    if norm == "linf" and budget > span:
        raise Misuse(
            f"budget={budget:g} is more than the whole range of pixels, {span:g}; for 8-bit levels give {budget:g}/255"
        )
    if scale.levels is not None and budget / scale.unit < 1 - 1e-9:
        raise Misuse(f"budget={budget:g} is less than one level of an 8-bit file, {scale.unit:g}: nothing could change")
    return budget


def _within(within: Any, asked: Request, was: Classes) -> Mask | None:
    """Where pixels may change; None: everywhere."""
    if within is None:
        return None
    batch, _, rows, columns = asked.x.shape
    if isinstance(within, str):
        if within != INTERNAL:
            raise nearest(within, [INTERNAL], "word of within=")
        return internal(asked.model.model, asked.model.inputs, asked.model.stream, asked.to, was, (rows, columns))
    return mask_of(within, (batch, rows, columns))


@dataclass
class _Task:
    """One search: what is asked, and what is allowed."""

    asked: Request
    norm: Norm
    budget: float
    minimal: bool
    within: Mask | None
    steps: int
    restarts: int
    seed: int
    told: Told | None
    done: int = 0

    def run(self) -> Sought:
        """The best changes: the surest within the budget, or the smallest."""
        ball, start = self._ball(), torch.zeros_like(self.asked.x)
        sought = self._as_they_are(start)
        self._search(sought, ball, start)
        for turn in range(self.restarts):
            self._search(sought, ball, self._noise(ball, turn))
        if self.minimal:
            smallest(self.asked.margin, ball, sought, self.steps, self._tell)
        return sought

    def _as_they_are(self, start: Change) -> Sought:
        """The pictures without a change, about which the model was asked once."""
        rows = torch.arange(len(start), device=start.device)
        margin, _ = self.asked.margin(start, rows)
        return Sought(start.clone(), margin, torch.ones_like(rows))

    def _search(self, sought: Sought, ball: Ball, start: Change) -> None:
        """Search for those that are not found yet; take what is better."""
        rows = (~sought.found).nonzero()[:, 0]
        if not len(rows):
            return
        margin = lambda d, at: self.asked.margin(d, rows[at])  # noqa: E731
        more = search(margin, ball.of(rows), start[rows], self.steps, until_found=self.minimal, told=self._tell)
        sought.take(more, rows, more.margin > sought.margin[rows])

    def _ball(self) -> Ball:
        """What is allowed, in levels: the budget, the range of pixels, and nothing outside of `within`."""
        scale, level = self.asked.scale, self.asked.level
        whole = scale.levels is not None
        radius = self.budget / scale.unit
        if not whole:
            radius *= 1 - ROUNDING
        elif self.norm == "linf":
            radius = math.floor(radius + HAIR)
        low, high = -level, scale.top - level
        low, high = (low.ceil(), high.floor()) if whole else (low, high)
        if self.within is not None:
            inside = self.within[:, None].to(level.device)
            low, high = low * inside, high * inside
        radii = torch.full((len(level),), radius, dtype=torch.float64, device=level.device)
        return Ball(self.norm, radii, low, high, whole)

    def _noise(self, ball: Ball, turn: int) -> Change:
        """The same noise for every sample, so that a batch gives what its samples give; as large as the budget lets it be."""
        generator = torch.Generator().manual_seed(self.seed + turn)
        x = self.asked.x
        noise = (2 * torch.rand(x.shape[1:], generator=generator, dtype=x.dtype) - 1).to(x.device).expand_as(x)
        return ball.project(noise * wide(ball.radius / norm_of(noise, ball.norm), noise))

    def _tell(self) -> None:
        self.done += 1
        if self.told is not None:
            most = self.steps * (1 + self.restarts + self.minimal * HALVINGS)
            self.told("rewriting", self.done, max(most, self.done))


def _measured(task: _Task, sought: Sought, before: Logits, after: Logits, x: Change) -> Rewriting:
    """What was done, and its size."""
    asked, scale = task.asked, task.asked.scale
    delta = scale.in_pixels(sought.delta.double())
    span = scale.high - scale.low
    original, pixels = scale.pixels_of(asked.level), scale.pixels_of(asked.level + sought.delta)
    similar = _ssim(original, pixels, span)
    return Rewriting(
        stream=asked.model.stream,
        was=before.argmax(1).cpu(),
        to=asked.to.cpu(),
        keep=None if asked.keep is None else asked.keep.cpu(),
        success=reached(after, asked.to, asked.keep).cpu(),
        norm=task.norm,
        budget=task.budget,
        minimal=task.minimal,
        linf=norm_of(delta, "linf").cpu(),
        l2=norm_of(delta, "l2").cpu(),
        psnr=_psnr(delta, span).cpu(),
        ssim=similar,
        probabilities_before=before.exp().detach().cpu(),
        probabilities=after.exp().detach().cpu(),
        queries=sought.queries.cpu(),
        original=original.cpu(),
        pixels=pixels.cpu(),
        inputs=x.detach().cpu(),
        low=scale.low,
        high=scale.high,
        within=task.within,
        notes=[n for n in (scale.note, NO_SSIM if similar is None else "") if n],
    )


def reached(z: Logits, to: Classes, keep: Classes | None) -> Tensor:
    """Whether `to` is the first class, and `keep` the second."""
    order = z.topk(2, 1).indices
    first = order[:, 0] == to
    return first if keep is None else first & (order[:, 1] == keep)


def _psnr(delta: Change, span: float) -> Float[Tensor, " batch"]:
    """10 log₁₀(range² / mean δ²); infinite where nothing changed."""
    return 10 * (span**2 / delta.flatten(1).square().mean(1)).log10()


def _ssim(before: Change, after: Change, span: float) -> Float[Tensor, " batch"] | None:
    """Structural similarity, by scikit-image; None where it is not installed or the picture is too small for its window."""
    if importlib.util.find_spec("skimage") is None or min(before.shape[-2:]) < SSIM_SIDE:
        return None
    from skimage.metrics import structural_similarity

    pairs = zip(before.cpu().double().numpy(), after.cpu().double().numpy(), strict=True)
    how = {"data_range": span, "channel_axis": 0, "win_size": SSIM_SIDE}
    return torch.tensor([float(structural_similarity(a, b, **how)) for a, b in pairs], dtype=torch.float64)


def _add_maps(found: Rewriting, model: nn.Module, given: Inputs, after: Tensor) -> None:
    """Maps before and after, where there is attention to follow."""
    changed = given.replaced({found.stream: after})
    found.maps = before_and_after(model, given, changed, found.stream, found.was, found.to)
    if found.maps is None:
        found.notes.append(NO_MAPS)


__all__ = ["BUDGETS", "reached", "rewrite"]
