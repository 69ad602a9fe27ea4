"""A classifier of pictures asked how far a changed picture is from being what it should be taken for."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.editing.pixel_scale import PixelScale
from regard.editing.projected import Change, PerSample
from regard.errors import ModelError, NonFinite, TargetError
from regard.head import Head, head_of
from regard.recording.ambient import our_own
from regard.recording.inputs import Inputs
from regard.recording.random_state import rng_kept
from regard.recording.run import unwatched
from regard.target import scores

Classes = Int[Tensor, " batch"]
Logits = Float[Tensor, "batch class"]


def picture_of(model: nn.Module, inputs: Inputs) -> str:
    """The input that is a picture, (batch, channel, row, column). Raises ModelError where none is, or several are."""
    floats = {n: t for n, t in inputs.followed.items() if t.is_floating_point() and t.ndim == 4}
    if len(floats) == 1:
        return next(iter(floats))
    shapes = ", ".join(f"{n} {tuple(t.shape)}" for n, t in inputs.tensors.items()) or "no tensor"
    raise ModelError(
        f"rewriting changes the pixels of one picture, a floating tensor (batch, channel, row, column); {type(model).__name__} "
        f"was given {'several' if floats else 'none'} ({shapes}); texts, sounds and pictures cut into patches are not rewritten"
    )


def margin_of(z: Logits, to: Classes, keep: Classes | None) -> PerSample:
    """How far `to` is before every other class; with `keep`, or how far `keep` is before all others if that is less."""
    first_ = _lead(z, to, to[:, None])
    if keep is None:
        return first_
    return torch.minimum(first_, _lead(z, keep, torch.stack([to, keep], 1)))


def _lead(z: Logits, c: Classes, out: Int[Tensor, "batch some"]) -> PerSample:
    """z_c less the largest of the classes that are not in `out`; infinite where there are none."""
    others = z.scatter(1, out, -torch.inf).amax(1)
    return z.gather(1, c[:, None])[:, 0] - others


@dataclass
class Classifier:
    """A model that says which of some classes a picture has, on inputs of which one is the picture.

    head: what its scores are; known once it was `met`. rng: the random state that every run begins with.
    """

    model: nn.Module
    inputs: Inputs
    stream: str
    rng: Tensor
    head: Head = field(default_factory=Head)

    @property
    def picture(self) -> Change:
        """The pictures as they were given."""
        return self.inputs.tensors[self.stream]

    def met(self) -> Logits:
        """Ask once about the pictures as they are, for the head and log-probabilities. Raises ModelError for no classifier."""
        with torch.enable_grad():
            found = self.scores(self.picture.detach().requires_grad_())
        name = type(self.model).__name__
        if found.ndim != 2 or len(found) != len(self.picture):
            raise ModelError(
                f"rewriting needs one prediction a picture, scores (batch, class); those of {name} are {tuple(found.shape)}, "
                "so there is no one class to rewrite"
            )
        self.head = head_of(self.model, found)
        if self.head.no_class or self.head.one or self.head.several or found.shape[1] < 2:
            of = (
                "labels of which a picture may have several"
                if self.head.several
                else "no classes that exclude one another"
            )
            raise ModelError(f"rewriting needs classes of which a picture has one; {name} has {of}")
        return self.head.probability(found.detach(), log=True)

    def log_probabilities(self, x: Change, rows: Classes | None = None) -> Logits:
        """Of all classes, on pictures in the place of those that were given; `rows`: of which samples they are."""
        return self.head.probability(self.scores(x, rows), log=True)

    def scores(self, x: Change, rows: Classes | None = None) -> Tensor:
        """The model's scores, in float32 at least. Raises NonFinite."""
        torch.set_rng_state(self.rng)
        inputs = self.inputs if rows is None or len(rows) == len(self.picture) else self._of(rows)
        found = scores(unwatched(self.model, inputs, {self.stream: x}), None)
        found = found if found.dtype == torch.float64 else found.float()
        if not bool(torch.isfinite(found).all()):
            raise NonFinite(f"{type(self.model).__name__}'s scores of a picture hold NaN or infinity")
        return found

    def _of(self, rows: Classes) -> Inputs:
        """The other inputs of some samples."""
        mine = {n: t for n, t in self.inputs.tensors.items() if len(t) == len(self.picture) and n != self.stream}
        return self.inputs.replaced({n: t.index_select(0, rows.to(t.device)) for n, t in mine.items()})


@dataclass(frozen=True)
class Request:
    """A classifier's pictures as they are (`x`; in `level`s), and what they are to be taken for."""

    model: Classifier
    scale: PixelScale
    x: Change
    level: Change
    to: Classes
    keep: Classes | None

    def changed(self, delta: Change, rows: Classes | None = None) -> Change:
        """What the model is given of some samples when they are changed, in its own dtype."""
        x, level = (self.x, self.level) if rows is None else (self.x[rows], self.level[rows])
        return self.scale.changed(x, level, delta).to(self.model.picture.dtype)

    def margin(self, delta: Change, rows: Classes) -> tuple[PerSample, Change]:
        """The margin of some samples, changed, and its gradient by the levels of their pixels."""
        with torch.enable_grad():
            x = self.changed(delta, rows).detach().requires_grad_()
            z = self.model.log_probabilities(x, rows)
            m = margin_of(z, self.to[rows], None if self.keep is None else self.keep[rows])
            if not m.requires_grad:
                raise ModelError(f"no gradient of the model's scores reaches its picture {self.model.stream!r}")
            (g,) = torch.autograd.grad(m.sum(), x)
        return m.detach().double(), g.to(delta.dtype) * self.scale.slope(delta)


def probabilities(model: nn.Module, inputs: Any) -> Logits:
    """Of all classes, on inputs as they are."""
    with rng_kept(model) as rng, our_own():
        given = Inputs.of(model, inputs)
        return Classifier(model, given, picture_of(model, given), rng[0]).met().exp().cpu()


def classes(value: Any, name: str, of: Logits) -> Classes:
    """A class, or one per sample, as a tensor. Raises TargetError for what is none of the model's classes."""
    batch, count = of.shape
    if (
        isinstance(value, bool)
        or not hasattr(value, "__index__")
        or (isinstance(value, Tensor) and _is_no_number(value))
    ):
        raise TargetError(
            f"{name}= is a class number, or one per sample in an integer (batch,) tensor; not {reprlib.repr(value)}"
        )
    found = torch.as_tensor(value if isinstance(value, Tensor) else int(value), device=of.device).long()
    found = found.expand(batch).clone() if found.ndim == 0 else found
    if found.shape != (batch,):
        raise TargetError(
            f"{name}= needs one class per sample: {batch} samples, but a tensor of shape {tuple(found.shape)}"
        )
    if bool((bad := (found < 0) | (found >= count)).any()):
        raise TargetError(f"{name}= class {int(found[bad][0])} is out of range: there are {count}")
    return found


def _is_no_number(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex() or t.dtype == torch.bool


__all__ = ["Classifier", "Request", "classes", "margin_of", "picture_of", "probabilities"]
