"""One picture and several texts, which are the classes that the model compares it with (CLIP, SigLIP; zero-shot).

A class is a text, or a name put into several templates ("a photo of a {}.", "a drawing of a {}."): an ensemble, whose score is
that of the mean of its texts' embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.errors import InputError, Misuse, TargetError
from regard.explanation.compared import ComparedClasses
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Reading, Text
from regard.head import Head, head_of
from regard.models import pairs
from regard.models.chats import is_chat
from regard.models.default_targets import compares
from regard.models.labels import called, class_of
from regard.prompts import SLOT, Prompts
from regard.target import Output, Target, field, made_again, scores

COMPARED = "logits_per_image"  # (picture, text)
ALL = "all"
OF_CLASSES = ("logit", "probability", "log_probability", "contrast")
"""Targets that are about a class, and read the scores of all classes."""
COMPARES = "for models that compare a picture with texts, such as CLIP"


# -- the texts ------------------------------------------------------------------------------------------------------------


def are_texts(prompt: Any) -> bool:
    """Whether what was given beside a picture is a list of texts, or classes with their templates."""
    return isinstance(prompt, Prompts) or (isinstance(prompt, list) and not is_chat(prompt))


def prompts_of(given: list[str] | Prompts) -> Prompts:
    """Texts as classes, each by itself."""
    return given if isinstance(given, Prompts) else Prompts(given)


def joined(model: nn.Module, kind: str, raw: Any, texts: Any, labels: Any, templates: Any) -> Any:
    """A raw input with what was said beside it: (picture, [texts]), or (picture, Prompts). Raises Misuse where it cannot be."""
    given = {"texts": texts, "labels": labels, "templates": templates}
    names = [f"{name}=" for name, value in given.items() if value is not None]
    if not names:
        return raw
    if kind != "image-text" or not compares(model):
        raise Misuse(f"{' and '.join(names)} are {COMPARES}; {type(model).__name__} does not")
    if isinstance(raw, tuple):
        raise Misuse(f"the texts are given twice, beside the picture and with {names[0]}; leave one out")
    if texts is not None and len(names) > 1:
        raise Misuse(f"texts= are whole texts, and take no {names[1]}; give the names of classes as labels=")
    if labels is None and texts is None:
        raise Misuse("templates= are what labels are put into; give the names of classes as labels=")
    if texts is not None:
        return raw, list(texts) if isinstance(texts, tuple) else prompts_of(texts)
    every = [SLOT] if templates is None else [templates] if isinstance(templates, str) else templates
    return raw, Prompts(labels, every)


def check(model: nn.Module, pictures: int) -> None:
    """Raises InputError for what cannot be compared."""
    if not compares(model):
        name = type(model).__name__
        raise InputError(f"{name} reads one text beside a picture; a list of them is {COMPARES}")
    if pictures != 1:
        raise InputError(f"one picture is compared with several texts, and {pictures} were given; give them one by one")


def read(
    processor: Any, texts: Sequence[str], image: Any, more: Mapping[str, Any]
) -> tuple[dict[str, Tensor], list[Text], list[str]]:
    """Run the processor on each text as it does alone; shorter ones are then padded. The picture is read once.

    Raises InputError for what the processor refuses.
    """
    made = [pairs.read_pair(processor, text, [], more) for text in texts]
    both, _, _ = pairs.read_pair(processor, texts[0], [image], more)
    beside = {k: v for k, v in both.items() if k not in made[0][0]}
    padded = _padded(processor.tokenizer, [tensors for tensors, _, _ in made])
    rows = padded["input_ids"].tolist()
    notes = [f"text {i}: {note}" for i, (_, _, said) in enumerate(made) for note in said]
    read = [pairs.text_of(processor.tokenizer, text, ids) for text, ids in zip(texts, rows, strict=True)]
    return padded | beside, read, notes


def _padded(tokenizer: Any, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The texts' tensors as one batch."""
    if len({row["input_ids"].shape[1] for row in rows}) == 1:
        return {k: torch.cat([row[k] for row in rows]) for k in rows[0]}
    try:
        made = tokenizer.pad({k: [row[k][0].tolist() for row in rows] for k in rows[0]}, return_tensors="pt")
    except ValueError as e:
        said = str(e).splitlines()[0]
        raise InputError(f"texts of different lengths cannot be padded ({said}); give them one by one") from e
    return dict(made)


# -- their scores ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ensemble:
    """The scores of classes of several texts each, from the model's output: (picture, class).

    As in CLIP's own zero-shot evaluation (Radford et al., 2021): a class's embedding is the mean of its texts' embeddings,
    each of length 1, brought to length 1 again; its score is scale · cosine + shift, with the model's own two numbers. The
    embeddings are those of the one forward pass of all texts, in the graph, so that nothing is added but the mean.

    Raises TargetError where the model's own scores of the texts are not scale · cosine + shift of the embeddings in its output:
    then the score of a mean is not known.
    """

    model: str
    templates: int
    scale: float
    shift: float

    @classmethod
    def of(cls, model: nn.Module, templates: int) -> Ensemble:
        """With a model's own scale and shift."""
        scale, shift = (getattr(model, name, None) for name in ("logit_scale", "logit_bias"))
        return cls(
            type(model).__name__,
            templates,
            float(scale.detach().exp()) if isinstance(scale, Tensor) else 1.0,
            float(shift.detach()) if isinstance(shift, Tensor) else 0.0,
        )

    def __call__(self, output: Any) -> Float[Tensor, "picture class"]:
        """In the graph of the output."""
        image, texts = (unit(field(output, name)) for name in ("image_embeds", "text_embeds"))
        own = field(output, COMPARED).detach()
        far = float((self._scores(image, texts).detach() - own).abs().max())
        if far > 16 * torch.finfo(own.dtype).eps * (abs(self.scale) + abs(self.shift)):
            raise TargetError(
                f"the scores of {self.model} are not the scaled cosines of the embeddings in its output (they differ by up to "
                f"{far:.3g}), so the score of a mean over templates is not known; give one template"
            )
        mean = texts.unflatten(0, (-1, self.templates)).mean(1)
        return self._scores(image, unit(mean))

    def _scores(self, image: Tensor, texts: Tensor) -> Tensor:
        return self.scale * image @ texts.T + self.shift


def unit(embeddings: Float[Tensor, "number width"]) -> Float[Tensor, "number width"]:
    """Embeddings of length 1, in single precision at least."""
    return torch.nn.functional.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)


def scores_in(model: nn.Module, reading: Reading) -> Output:
    """Where a model's output has the scores of a reading's classes."""
    return COMPARED if reading.templates == 1 else Ensemble.of(model, reading.templates)


def target_of(model: nn.Module, reading: Reading, target: Any) -> Any:
    """A target of the classes: None, a number, a name, a `Target` that names no output of its own; "all" or a list of them."""
    labels, output = reading.labels or [], scores_in(model, reading)
    if isinstance(target, str) and target == ALL and ALL not in labels:
        target = [*range(len(labels))]
    if isinstance(target, list):
        return [target_of(model, reading, t) for t in target]
    if isinstance(target, str):
        target = class_of(target, labels, model)
    if len(labels) == 1 and (target is None or (target == 0 and not isinstance(target, bool | Tensor))):
        return Target.of(lambda out: scores(out, output)[:, 0], f"logit of {labels[0]!r}")
    if target is None or hasattr(target, "__index__"):
        return Target.logit(target, output=output)
    return _of_classes(target, model, labels, output) if isinstance(target, Target) else target


def _of_classes(target: Target, model: nn.Module, labels: Sequence[str], output: Output) -> Target:
    """A target that names no output, of the scores of the classes."""
    kind, given = target.made or ("", {})
    if kind not in OF_CLASSES or given["output"] is not None:
        return target
    if len(labels) == 1 and kind == "contrast":
        raise TargetError("one text was given, so there is no other to contrast it with; give at least two")
    if len(labels) == 1 and kind != "logit" and _alone(head_of(model, torch.zeros(1, 1))):
        raise TargetError(
            f"the {kind.replace('_', '-')} of a text is among the texts given, and one was given; give at least two"
        )
    made = made_again(kind, {**given, "output": output})
    return made if made.label == target.label else made.named(target.label)


def contrast_of(model: nn.Module, reading: Reading, c: Any, d: Any) -> Target:
    """How much more one class fits than another, each by its number or name (None: the likeliest, and the next)."""
    labels = reading.labels or []
    first, second = (class_of(k, labels, model) if isinstance(k, str) else k for k in (c, d))
    made = _of_classes(Target.contrast(first, second), model, labels, scores_in(model, reading))
    return made.named(f"{called(first, labels)} rather than {called(second, labels)}")


# -- what is asked --------------------------------------------------------------------------------------------------------


@dataclass
class AskedClasses:
    """The targets of one call; called with the model's output, it gives them, and keeps how well each class fits.

    several: a list was asked for. fits: what was kept.
    """

    model: nn.Module
    reading: Reading
    targets: list[Target]
    several: bool
    fits: ComparedClasses | None = None

    @classmethod
    def of(cls, model: nn.Module, reading: Reading, target: Any, against: Any) -> AskedClasses:
        """From what `explain` takes."""
        found = target_of(model, reading, target) if against is None else contrast_of(model, reading, target, against)
        every = found if isinstance(found, list) else [found]
        if not every:
            raise Misuse("nothing to explain: the list of targets is empty")
        return cls(model, reading, [Target.make(t) for t in every], isinstance(found, list))

    def __call__(self, output: Any) -> list[Target]:
        """The targets."""
        self.fits = fits_of(self.model, self.reading, output)
        return self.targets

    def told(self, every: list[Explanation], *, several: bool) -> Any:
        """The explanations, which know how well each class fits: one alone, where neither targets nor methods are in a list."""
        for explanation in every:
            explanation.compared = self.fits
        return every if self.several or several else every[0]


def fits_of(model: nn.Module, reading: Reading, output: Any) -> ComparedClasses:
    """How well each class fits, in a model's output: the first picture's."""
    labels = reading.labels or []
    found = scores(output, scores_in(model, reading)).detach()
    head = head_of(model, found)
    likely = None if _alone(head) else head.probability(found.float(), log=False)[0].tolist()
    return ComparedClasses(
        tuple(labels),
        tuple(found[0].float().tolist()),
        None if likely is None else tuple(likely),
        head.kind,
        reading.templates,
    )


def _alone(head: Head) -> bool:
    """Whether a score stands alone where probabilities are shares among several."""
    return head.one and not head.said


__all__ = ["AskedClasses", "Ensemble", "are_texts", "check", "joined", "prompts_of", "read", "target_of"]
