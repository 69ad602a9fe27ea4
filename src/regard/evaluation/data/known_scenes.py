"""The zoo's scenes whose models do not tell classes apart: each is asked so that its answer is one of several; known pixels.

`zoo/clip-scenes`: which of the captions "a shirt", "a trouser", ... fits a scene. `zoo/detr-scenes`: which class the query sees
that found an item. `zoo/vlm-scenes`: which word comes next in a true answer. The mask is the item that the answer is about.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard import zoo
from regard.errors import InputError, nearest
from regard.evaluation.data.dataset import DataSet, files_digest, reading_of
from regard.evaluation.examples import Example
from regard.evaluation.protocols.box_matching import Boxes, predictions
from regard.evaluation.protocols.detected_objects import found_by
from regard.explanation.raw_inputs import Reading

PICTURE, WORDS = "pixel_values", "input_ids"


class AskedModel(nn.Module):
    """A model that is asked something; it is in the mode that it was in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config, self.training = model, model.config, model.training


class CaptionScores(AskedModel):
    """A CLIP on pictures alone: how well each of some texts fits."""

    def __init__(self, model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> None:
        super().__init__(model)
        made = tokenizer(list(texts), padding=True, return_tensors="pt")
        self.texts = {k: made[k].to(next(model.parameters()).device) for k in (WORDS, "attention_mask")}

    def forward(self, pixel_values: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch text"]:
        """The likeness of each picture to each text."""
        found: Tensor = self.model(pixel_values=pixel_values, **self.texts).logits_per_image
        return found


class QueryScores(AskedModel):
    """A detector at one query of each picture."""

    def forward(
        self, pixel_values: Float[Tensor, "batch 3 height width"], query: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch class"]:
        """The scores of the classes, "no object" among them."""
        logits = self.model(pixel_values=pixel_values).logits
        return logits[torch.arange(len(query), device=logits.device), query]  # type: ignore[no-any-return]


class NextWord(AskedModel):
    """A writer at the end of what is written."""

    def forward(
        self,
        input_ids: Int[Tensor, "batch token"],
        attention_mask: Int[Tensor, "batch token"],
        pixel_values: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch word"]:
        """The scores of all words."""
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)
        return found.logits[:, -1]  # type: ignore[no-any-return]


@dataclass(kw_only=True)
class KnownScenes(DataSet):
    """What the three have in common: scenes, each asked about several times, and the pixels of every answer."""

    kind: ClassVar[str] = "zoo"
    files: ClassVar[tuple[str, ...]]
    name: str

    @property
    def source(self) -> str:
        """Its name."""
        return self.name

    @property
    def masked(self) -> bool:
        """They are."""
        return True

    def digest(self) -> str:
        """Of its files."""
        home = zoo.folder(self.name)
        return files_digest([home / f for f in self.files], home)

    def _picture(self, reading: Reading) -> Reading:
        """A reading's picture alone."""
        return dataclasses.replace(
            reading, inputs={PICTURE: reading.inputs[PICTURE]}, raw={PICTURE: reading.raw[PICTURE]}, special={}
        )


@functools.cache
def _captions() -> zoo.Captions:
    return zoo.captions()


@functools.cache
def _detections() -> zoo.Detections:
    return zoo.detections()


@functools.cache
def _answers() -> zoo.Answers:
    return zoo.answers()


@dataclass(kw_only=True)
class CaptionedScenes(KnownScenes):
    """A scene for each caption of one item; its classes are the captions of all items, or of all in all colours.

    Attributes:
        captions: "item" ("a bag") or "colour" ("a red bag").
    """

    files: ClassVar[tuple[str, ...]] = ("captions.safetensors", "captions.json")
    captions: str = "item"

    def __post_init__(self) -> None:
        if self.captions not in ("item", "colour"):
            raise nearest(self.captions, ("item", "colour"), "kind of captions")

    @property
    def texts(self) -> list[str]:
        """The captions that a scene is compared with, in order: the classes."""
        known = _captions()
        colours = [""] if self.captions == "item" else [f"{c} " for c in known.colour_names]
        return [f"a {colour}{item}" for item in known.item_names for colour in colours]

    @property
    def _rows(self) -> list[int]:
        return [i for i, kind in enumerate(_captions().kinds) if kind == self.captions]

    def __len__(self) -> int:
        return len(self._rows)

    def name_of(self, number: int) -> str:
        """The number of the caption."""
        return f"caption {self._rows[number]}"

    def choices(self) -> dict[str, Any]:
        """Which captions."""
        return super().choices() | {"captions": self.captions}

    def model_of(self, reader: Any) -> nn.Module:
        """The model, comparing with all texts."""
        return CaptionScores(reader.model, reader.processor.tokenizer, self.texts)

    def read(self, reader: Any, number: int) -> Example:
        """A scene, and the caption that fits one of its items."""
        known, row = _captions(), self._rows[number]
        scene = int(known.scene[row])
        reading = self._picture(reading_of(reader, (known.images[scene].numpy(), known.texts[row])))
        label = self.texts.index(known.texts[row])
        return Example(self.name_of(number), reading, label, known.regions()[row], group=f"scene {scene}")


@dataclass(kw_only=True)
class DetectedScenes(KnownScenes):
    """An item of a scene: the query that found it, and the class. An item that no query found is an error."""

    files: ClassVar[tuple[str, ...]] = ("scenes.safetensors", "scenes.json")

    @functools.cached_property
    def _items(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = list(map(tuple, (_detections().labels >= 0).nonzero().tolist()))
        return found

    def __len__(self) -> int:
        return len(self._items)

    def name_of(self, number: int) -> str:
        """Scene and item."""
        scene, item = self._items[number]
        return f"scene {scene}, item {item}"

    def model_of(self, reader: Any) -> nn.Module:
        """The model at one query of each scene."""
        return QueryScores(reader.model)

    def read(self, reader: Any, number: int) -> Example:
        """An item."""
        known, (scene, item) = _detections(), self._items[number]
        reading = self._picture(reading_of(reader, known.images[scene].numpy()))
        with torch.no_grad():
            out = reader.model(pixel_values=reading.inputs[PICTURE])
        here = known.labels[scene] >= 0
        true = Boxes(known.boxes[scene, here], known.labels[scene, here])
        query = found_by(predictions(out.logits.cpu(), out.pred_boxes.cpu()), [true])[0][item]
        if query < 0:
            raise InputError("no query of the model found this item (class right, boxes overlap by half or more)")
        asked = reading.inputs | {"query": torch.tensor([query], device=out.logits.device)}
        label, mask = int(known.labels[scene, item]), known.masks[scene, item]
        return Example(
            self.name_of(number), dataclasses.replace(reading, inputs=asked), label, mask, group=f"scene {scene}"
        )


@dataclass(kw_only=True)
class SpokenScenes(KnownScenes):
    """The words of true answers that speak of an item, each the next word after the request and the words before it.

    Attributes:
        asked: the kinds of requests: "caption", "what", "colour", "where".
    """

    files: ClassVar[tuple[str, ...]] = ("answers.safetensors", "answers.json")
    asked: Sequence[str] = ("caption",)

    def __post_init__(self) -> None:
        known = sorted({*_answers().kinds})
        self.asked = [self.asked] if isinstance(self.asked, str) else list(self.asked)
        for kind in self.asked:
            if kind not in known:
                raise nearest(kind, known, "kind of request")

    @functools.cached_property
    def _words(self) -> list[tuple[int, int]]:
        """(answer, word) of every word that speaks of an item."""
        known = _answers()
        rows = [i for i, kind in enumerate(known.kinds) if kind in self.asked]
        return list(
            itertools.chain.from_iterable(
                [(i, w) for w, word in enumerate(known.words(i)) if word.region is not None] for i in rows
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without what is found again."""
        return {k: v for k, v in self.__dict__.items() if k != "_words"}

    def __len__(self) -> int:
        return len(self._words)

    def name_of(self, number: int) -> str:
        """Answer and word."""
        row, word = self._words[number]
        return f"answer {row}, word {word}"

    def choices(self) -> dict[str, Any]:
        """Which requests."""
        return super().choices() | {"asked": list(self.asked)}

    def model_of(self, reader: Any) -> nn.Module:
        """The model at the end of what is written."""
        return NextWord(reader.model)

    def read(self, reader: Any, number: int) -> Example:
        """A scene, a request, the words so far; the next word is the class."""
        known, (row, at) = _answers(), self._words[number]
        scene, words = int(known.scene[row]), known.words(row)
        reading = reading_of(reader, (known.images[scene].numpy(), known.prompts[row]))
        ids = reading.inputs[WORDS]
        written = reader.tokenizer.convert_tokens_to_ids([w.text for w in words[: at + 1]])
        more = torch.tensor([written[:-1]], dtype=ids.dtype, device=ids.device)
        inputs = {WORDS: torch.cat([ids, more], 1), PICTURE: reading.inputs[PICTURE]}
        inputs["attention_mask"] = torch.ones_like(inputs[WORDS])
        asked = dataclasses.replace(reading, inputs=inputs, raw={PICTURE: reading.raw[PICTURE]}, special={})
        return Example(self.name_of(number), asked, written[-1], words[at].region, group=f"scene {scene}")


__all__ = [
    "AskedModel",
    "CaptionScores",
    "CaptionedScenes",
    "DetectedScenes",
    "NextWord",
    "QueryScores",
    "SpokenScenes",
]
