"""Raw pictures, texts, sound and regions to the tensors of one model, with what was read kept beside them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from regard.errors import InputError, Misuse, ModelError
from regard.explanation.raw_inputs import Picture, Raw, Reading, Text
from regard.models import embeddings, pairs, regions, sounds, zero_shot
from regard.models.chats import can_write, is_chat
from regard.models.generate import begins_with, begun_text, start_of
from regard.models.geometry import View, from_flat_patches, from_patches, probe, probe_tiles
from regard.models.pictures import Pixels, ReadPicture, taking, to_image
from regard.models.texts import check_known, longest, read_texts
from regard.prompts import Prompts
from regard.recording.tokens import rasters

Kind = Literal["image", "text", "image-text", "regions-text", "embedding", "sound"]
READS: dict[Kind, str] = {
    "image": "pictures",
    "text": "texts",
    "image-text": "pictures and texts",
    "regions-text": "regions of a picture, and a text",
    "embedding": "texts",
    "sound": "sound",
}
"""What a model of each kind reads, in words."""


class RawReader:
    """Reads raw pictures, texts, sound, or two of them, for one model.

    Attributes:
        model: the model, as it will be explained.
        processor: its image processor (or any callable: PIL image -> tensor (channels, rows, columns)) or tokenizer, or the
            processor that holds both, for a vision-language model; for a model of sound, what holds its feature extractor.
        labels: class names in index order, empty if the model names none.
        kind: "image", "text", "image-text", "sound", "regions-text" for a model that reads regions of a picture, or
            "embedding" for one that makes vectors of texts (`model` is then an `embeddings.Embedder` around it).
        stream: the keyword that pictures or token ids have in the model's forward.
        encoder: what turns boxes of a picture into the vectors that such a model reads, or None.
        notes: what every receipt should say about how the model was loaded.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        kind: Kind,
        labels: Sequence[str] = (),
        encoder: regions.Encoder | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.processor = processor
        self.kind: Kind = kind
        self.labels = list(labels)
        self.encoder = encoder
        self.notes = list(notes)
        self.stream = _stream(model, kind)
        self._views: dict[tuple[int, int], View] = {}

    @property
    def wants(self) -> pairs.Wants:
        """What a model of pictures and texts needs of each."""
        return pairs.wants(self.model, self.processor)

    def read(self, raw: Any, *, truncate: bool = False, regions: Any = None) -> Reading:
        """Turn one raw input, or a list of them, into the model's tensors, on its device and in its floating dtype.

        `raw` is, for an image model, a path (str or Path), a PIL image, or a uint8 array or tensor (height, width, 3);
        for a text model, a str, or a chat: a list of messages {"role": ..., "content": ...}; for an embedding model a str, or
        two in a tuple; for a model of sound the path of a WAV file, an array (time,), or (array, rate); for a model of pictures
        and texts (picture, text), one at a time; where it compares the two, as CLIP does, also (picture, [texts]), whose texts
        are its classes, or (picture, `Prompts`), classes in templates; for a vision-language model also
        ([pictures], prompt), or a prompt alone; for a captioner a picture alone. `regions`, for a model that reads regions of a
        picture: their boxes (regions, 4) as (left, top, right, bottom), fractions of the picture, or (boxes, vectors) where the
        model brings nothing that makes vectors of them. `truncate` lets texts and sounds longer than the model takes be cut. A
        UserWarning says what was cut, what was transparent, and where the processor does something to pictures that cannot be
        undone on the original.

        Raises InputError for a raw input that cannot be read.
        """
        reading, notes = self.read_noted(raw, truncate, regions)
        for note in notes:
            warnings.warn(note, UserWarning, stacklevel=2)
        return reading

    @property
    def tokenizer(self) -> Any:
        """What cuts texts into tokens, and reads what the model writes. Raises ModelError where there is none."""
        if self.kind not in ("image-text", "sound"):
            return self.processor
        found = getattr(self.processor, "tokenizer", None)
        if found is None and can_write(self.model):
            name = type(self.model).__name__
            raise ModelError(f"what {name} writes cannot be read: give its processor, with a tokenizer")
        return found

    def read_noted(self, raw: Any, truncate: bool, regions: Any = None) -> tuple[Reading, list[str]]:
        """As `read`, with what it would warn of."""
        raws = raw if isinstance(raw, list) and not is_chat(raw) else [raw]
        if not raws:
            raise InputError("an empty list was given; give at least one picture or text")
        if self.kind == "regions-text":
            return self._read_regions(raws, truncate, regions)
        if regions is not None:
            raise Misuse(
                f"{type(self.model).__name__} reads {READS[self.kind]}, not regions of a picture; leave regions out"
            )
        if self.kind == "image-text":
            return self._read_pair(raws)
        if self.kind == "embedding":
            return self._read_embedding(raws, truncate)
        if self.kind == "sound":
            return self._read_sounds(raws, truncate)
        return self._read_pictures(raws) if self.kind == "image" else self._read_texts(raws, truncate)

    def _read_sounds(self, raws: list[Any], truncate: bool) -> tuple[Reading, list[str]]:
        """Read sounds, and begin the text of a model that writes."""
        extractor = sounds.extractor_of(self.processor)
        heard = [sounds.hear(extractor, self.model, raw, number, truncate) for number, raw in enumerate(raws)]
        inputs = _renamed(sounds.stacked(heard), sounds.main_of(heard[0].inputs), self.stream)
        raw: dict[str, list[Raw]] = {self.stream: [h.sound for h in heard]}
        start, tokenizer = start_of(self.model), getattr(self.processor, "tokenizer", None)
        begun: dict[str, list[Raw]] = {}
        if start is not None:
            inputs = inputs | {"decoder_input_ids": torch.full((len(raws), 1), start)}
            begun = {"decoder_input_ids": [begun_text(tokenizer, [start])] * len(raws)} if tokenizer else {}
        notes = [note for h in heard for note in h.notes]
        return Reading(self._fit(inputs), {**raw, **begun}, labels=self.labels or None), notes

    def _read_embedding(self, raws: list[Any], truncate: bool) -> tuple[Reading, list[str]]:
        """Read texts, or the two sides of pairs of texts."""
        sides = embeddings.read(self.processor, cast(embeddings.Embedder, self.model), raws, truncate)
        return Reading(
            inputs=self._fit({k: v for side in sides for k, v in side.inputs.items()}),
            raw={side.stream: side.texts for side in sides},
            special={side.stream: side.special.to(self._place()[0]) for side in sides},
        ), self.notes + [note for side in sides for note in side.notes]

    def _read_pair(self, raws: list[Any]) -> tuple[Reading, list[str]]:
        """Read pictures with their prompt."""
        if len(raws) > 1:
            raise InputError(f"{type(self.model).__name__} reads one prompt at a time; give them one by one")
        given, said = pairs.split(raws[0], self.wants, type(self.model).__name__)
        if zero_shot.are_texts(said):
            return self._read_compared(given, zero_shot.prompts_of(said))
        pixels = [ReadPicture.of(picture, number) for number, picture in enumerate(given)]
        begun, said = (said, None) if self.wants.begins else (None, said)
        prompt = pairs.prompt_of(self.model, self.processor, said, len(given))
        images, options = [to_image(one.pixels) for one in pixels], pairs.padding(self.model)
        tensors, text, told = pairs.read_pair(self.processor, prompt, images, options)
        raw: dict[str, list[Raw]] = {}
        special: dict[str, Tensor] = {}
        if text is not None:
            self._check_length(text)
            check_known(self.processor.tokenizer, self.model, tensors["input_ids"][0].tolist())
            raw["input_ids"] = [text]
            special["input_ids"] = torch.tensor([text.special], device=self._place()[0])
        pictures, views, notes = self._pictures(pixels)
        if len(pictures) == 1:  # the patches of several pictures are one stream, that no picture can be laid under
            raw[self.stream] = [pictures[0]]
        mean, std = (views[0].mean, views[0].std) if views else (None, None)
        if start_of(self.model) is not None and "decoder_input_ids" in inspect.signature(self.model.forward).parameters:
            ids = begins_with(self.model, self.processor.tokenizer, begun)
            tensors["decoder_input_ids"] = torch.tensor([ids])
            raw["decoder_input_ids"] = [begun_text(self.processor.tokenizer, ids)]
        return Reading(self._fit(tensors), dict(raw), special, self.labels or None, mean, std), told + notes

    def _read_compared(self, given: list[Any], prompts: Prompts) -> tuple[Reading, list[str]]:
        """Read one picture with the texts of the classes that it is compared with."""
        zero_shot.check(self.model, len(given))
        pixels = ReadPicture.of(given[0])
        options = pairs.padding(self.model)
        tensors, read, told = zero_shot.read(self.processor, prompts.texts, to_image(pixels.pixels), options)
        for text in read:
            self._check_length(text)
        check_known(self.processor.tokenizer, self.model, tensors["input_ids"].flatten().tolist())
        pictures, views, notes = self._pictures([pixels])
        return Reading(
            inputs=self._fit(tensors),
            raw={"input_ids": [*read], self.stream: [*pictures]},
            special={"input_ids": torch.tensor([text.special for text in read], device=self._place()[0])},
            labels=list(prompts.labels),
            mean=views[0].mean,
            std=views[0].std,
            templates=len(prompts.templates),
        ), told + notes

    def _read_regions(self, raws: list[Any], truncate: bool, boxes: Any) -> tuple[Reading, list[str]]:
        """Read regions of a picture with a question."""
        name = type(self.model).__name__
        if len(raws) > 1:
            raise InputError(f"{name} reads one picture and question at a time; give them one by one")
        given, question = regions.split(raws[0], name)
        picture = ReadPicture.of(given)
        pixels, called, _ = picture
        tensors, places = regions.read_regions(boxes, self.encoder, pixels, name)
        regions.check_width(tensors[regions.FEATURES], self.model)
        height, width = pixels.shape[:2]
        batch = read_texts(self.processor, self.model, [question], truncate)
        return Reading(
            inputs=self._fit(batch.inputs | tensors),
            raw={
                "input_ids": [replace(batch.texts[0], name="question")],
                regions.FEATURES: [Picture(pixels, (0.0, 0.0, float(width), float(height)), called, places)],
            },
            special={"input_ids": batch.special.to(self._place()[0])},
            labels=self.labels or None,
        ), batch.notes + picture.notes

    def check_text(self, reading: Reading) -> None:
        """Refuse to run a captioner that has no text yet."""
        if self.kind == "image-text" and not {"input_ids", "decoder_input_ids"} & set(reading.inputs):
            name = type(self.model).__name__
            raise Misuse(
                f"{name} has no text to score yet: explain_generation explains what it writes about the picture"
            )

    def _check_length(self, text: Text) -> None:
        limit = longest(self.processor.tokenizer, self.model)
        if limit is not None and len(text.tokens) > limit:
            raise InputError(
                f"the prompt has {len(text.tokens)} tokens, but {type(self.model).__name__} takes at most {limit}"
            )

    def _read_texts(self, raws: list[Any], truncate: bool) -> tuple[Reading, list[str]]:
        batch = read_texts(self.processor, self.model, raws, truncate)
        self._check_padding(batch.inputs["attention_mask"])
        inputs: dict[str, Tensor] = batch.inputs
        raw: dict[str, list[Raw]] = {self.stream: [*batch.texts]}
        if start_of(self.model) is not None:  # beside an encoder: what is asked for is the first token that it writes
            begun = begins_with(self.model, self.processor, None)
            inputs = inputs | {"decoder_input_ids": torch.tensor([begun] * len(raws))}
            raw["decoder_input_ids"] = [begun_text(self.processor, begun)] * len(raws)
        return Reading(
            inputs=self._fit(_renamed(inputs, "input_ids", self.stream)),
            raw=dict(raw),
            special={self.stream: batch.special.to(self._place()[0])},
            labels=self.labels or None,
        ), batch.notes

    def _check_padding(self, mask: Tensor) -> None:
        """Refuse a batch that a decoder's classifier, which finds the last token by its padding, would refuse."""
        name, config = type(self.model).__name__, cast(Any, getattr(self.model, "config", None))
        if len(mask) > 1 and name.endswith("ForSequenceClassification"):
            text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
            if getattr(text_config, "pad_token_id", 0) is None:
                raise InputError(
                    f"this {name} takes one text at a time, for its config names no padding token; "
                    "give them one by one, or set model.config.pad_token_id = tokenizer.eos_token_id"
                )

    def _read_pictures(self, raws: list[Any]) -> tuple[Reading, list[str]]:
        read = [ReadPicture.of(raw, number) for number, raw in enumerate(raws)]
        parts = []
        for pixels, name, _ in read:
            with taking(pixels, name):
                parts.append(self._process(pixels))
        pictures, views, notes = self._pictures(read)
        return Reading(
            inputs=self._fit(_stack(parts)),
            raw={self.stream: pictures},
            labels=self.labels or None,
            mean=views[0].mean,
            std=views[0].std,
        ), notes

    def _pictures(self, read: list[ReadPicture]) -> tuple[list[Picture], list[View], list[str]]:
        """Pictures with the part of each that the model sees, and what is to be said of that."""
        pictures, views, notes = [], [], []
        for one in read:
            pixels, name, _ = one
            notes += one.notes
            with taking(pixels, name):
                view = self._view(pixels)
            if view.box is None:
                notes.append(
                    f"it could not be found which part of {name} the model saw; the map is drawn over all of it"
                )
            height, width = pixels.shape[:2]
            box = view.box or (0.0, 0.0, float(width), float(height))
            pictures.append(Picture(pixels, box, name, tiles=view.tiles))
            views.append(view)
        return pictures, views, notes

    def _process(self, pixels: Pixels) -> dict[str, Tensor]:
        """Run the image processor on one picture; return keyword tensors with a batch axis of one."""
        image = to_image(pixels)
        processor = self.processor.image_processor if self.kind == "image-text" else self.processor
        if hasattr(processor, "preprocess"):
            made = processor(images=[image], return_tensors="pt")
            tensors = {key: value for key, value in made.items() if isinstance(value, Tensor)}
            return _renamed(tensors, "pixel_values", self.stream)
        return {self.stream: processor(image)[None]}

    def _seen(self, pixels: Pixels) -> Tensor:
        """What the model sees of a picture, (channels, rows, columns) where it is seen as one."""
        made = self._process(pixels)
        grid = rasters.grids(self.stream, len(made[self.stream]), made, 1)
        if grid is not None and len(grid) == 1:
            return from_patches(made[self.stream], grid[0], getattr(self.processor, "image_processor", self.processor))
        flat = rasters.flat_grid(self.stream, made[self.stream].shape[1], made)
        if flat is not None:
            return from_flat_patches(made[self.stream][0], flat)
        seen = made[self.stream][0]
        return seen[0] if seen.ndim == 4 and len(seen) == 1 else seen

    def _view(self, pixels: Pixels) -> View:
        """Return what part of such a picture the model sees, measured once for each size."""
        height, width = pixels.shape[:2]
        if (width, height) not in self._views:
            seen = self._seen(pixels)
            tiled = seen.ndim == 4
            self._views[width, height] = (
                probe_tiles(self._seen, len(seen), width, height) if tiled else probe(self._seen, width, height)
            )
        return self._views[width, height]

    def _fit(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keep what the model's forward names, on the model's device, floats in its dtype."""
        parameters = inspect.signature(self.model.forward).parameters
        named = [k for k in inputs if k in parameters] or list(inputs)
        device, dtype = self._place()
        return {k: inputs[k].to(device, dtype if inputs[k].is_floating_point() else None) for k in named}

    def _place(self) -> tuple[torch.device, torch.dtype]:
        every = [*self.model.parameters(), *self.model.buffers()]
        tensors = [
            t for t in every if not t.is_meta
        ] or every  # offloaded weights are on no device while the model rests
        device = tensors[0].device if tensors and not tensors[0].is_meta else torch.device("cpu")
        return device, next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def _stream(model: nn.Module, kind: Kind) -> str:
    """Return the forward's keyword for pictures or token ids: the usual one, else the model's first."""
    usual = "input_ids" if kind in ("text", "regions-text", "embedding") else "pixel_values"
    every = inspect.signature(model.forward).parameters.values()
    parameters = [p.name for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if usual in parameters or not parameters:
        return usual
    usual = next((name for name in sounds.STREAMS if kind == "sound" and name in parameters), usual)
    said = getattr(model, "main_input_name", None)
    return said if said in parameters else parameters[0]


def _renamed(inputs: dict[str, Tensor], usual: str, stream: str) -> dict[str, Tensor]:
    """Give the stream the name that the model's forward has for it."""
    return {stream if key == usual else key: value for key, value in inputs.items()}


def _stack(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join pictures into one batch."""
    shapes = {key: {tuple(part[key].shape[1:]) for part in parts} for key in parts[0]}
    for found in shapes.values():
        if len(found) > 1:
            sizes = ", ".join("x".join(map(str, s)) for s in sorted(found))
            raise InputError(f"the processor makes these pictures of different sizes ({sizes}); give them one by one")
    return {key: torch.cat([part[key] for part in parts]) for key in shapes}
