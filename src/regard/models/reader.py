"""A model together with what turns raw pictures or texts into its tensors, and class names into its class numbers."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from regard.errors import InputError, TargetError, UnknownName, nearest
from regard.explanation import Picture, Reading
from regard.models.geometry import View, probe
from regard.models.pictures import Pixels, read_picture
from regard.models.texts import read_texts

Kind = Literal["image", "text"]


class Reader:
    """Reads raw pictures or texts for one model; made by `regard.load`.

    Attributes:
        model: the model, as it will be explained.
        processor: its image processor (or any callable: PIL image -> tensor (channels, rows, columns)) or tokenizer.
        labels: class names in index order, empty where the model names none.
        kind: "image" or "text".
        stream: the keyword that pictures or token ids have in the model's forward.
    """

    def __init__(self, model: nn.Module, processor: Any, kind: Kind, labels: Sequence[str] = ()) -> None:
        self.model = model
        self.processor = processor
        self.kind: Kind = kind
        self.labels = list(labels)
        self.stream = _stream(model, kind)
        self._views: dict[tuple[int, int], View] = {}

    def __repr__(self) -> str:
        return f"Reader({type(self.model).__name__}, kind={self.kind!r}, {len(self.labels)} labels)"

    def read(self, raw: Any, *, truncate: bool = False) -> Reading:
        """Turn one raw input, or a list of them, into the model's tensors, on its device and in its floating dtype.

        `raw` is, for an image model, a path (str or Path), a PIL image, or a uint8 array or tensor (height, width, 3);
        for a text model, a str. `truncate` lets texts longer than the model takes be cut. A UserWarning says what was
        cut, and where the processor does something to pictures that cannot be undone on the original.

        Raises InputError for a raw input that cannot be read.
        """
        reading, notes = self._read(raw, truncate)
        for note in notes:
            warnings.warn(note, UserWarning, stacklevel=2)
        return reading

    def explain(
        self, raw: Any, target: Any = None, method: Any = "gae", *, truncate: bool = False, **options: Any
    ) -> Any:
        """Read raw inputs and explain the model's output on them: `regard.explain` with what the reader knows.

        A class may be given by its name (see `label`), also in a list of targets; `options` go to `regard.explain`.
        """
        reading, notes = self._read(raw, truncate)
        options = options | {"target": self._target(target), "method": method, "_reading": reading}
        found = _face().explain(self.model, reading.inputs, **options)
        for explanation in found if isinstance(found, list) else [found] if notes else []:
            explanation.receipt.notes.extend(notes)
        return found

    def inspect(self, raw: Any, target: Any = None, *, truncate: bool = False, **options: Any) -> Any:
        """Read raw inputs and show what Regard sees of the model's run on them: `regard.inspect`, with its options."""
        options = options if target is None else options | {"target": self._target(target)}
        return _face().inspect(self.model, self._read(raw, truncate)[0].inputs, **options)

    def record(self, raw: Any, target: Any = None, *, truncate: bool = False, **options: Any) -> Any:
        """Read raw inputs and record the model's run on them: `regard.record`; classes may be given by name."""
        return _face().record(self.model, self._read(raw, truncate)[0].inputs, target=self._target(target), **options)

    def label(self, name: str) -> int:
        """Return the class number of a label.

        A label matches as it is written, else in any case, else by one of its synonyms between commas ("tabby cat" for
        "tabby, tabby cat"), else as a class number in digits.

        Raises TargetError for a name that several classes bear and for a number out of range, UnknownName for others.
        """
        wanted = name.strip().casefold()
        matches = (
            lambda label: label == name,
            lambda label: label.strip().casefold() == wanted,
            lambda label: wanted in [part.strip().casefold() for part in label.split(",")],
        )
        for match in matches:
            found = [i for i, label in enumerate(self.labels) if match(label)]
            if len(found) > 1:
                numbers = ", ".join(map(str, found))
                raise TargetError(f"label {name!r} stands for several classes: {numbers}; give one of these numbers")
            if found:
                return found[0]
        if wanted.isdecimal():
            return self._number(int(wanted))
        if not self.labels:
            raise UnknownName(f"unknown label {name!r}; {type(self.model).__name__} names no classes, give a number")
        raise nearest(name, self.labels, "label")

    def _number(self, number: int) -> int:
        if self.labels and number >= len(self.labels):
            raise TargetError(f"there is no class {number}; the model has {len(self.labels)}, numbered from 0")
        return number

    def _target(self, target: Any) -> Any:
        if isinstance(target, str):
            return self.label(target)
        return [self._target(t) for t in target] if isinstance(target, list) else target

    def _read(self, raw: Any, truncate: bool) -> tuple[Reading, list[str]]:
        raws = raw if isinstance(raw, list) else [raw]
        if not raws:
            raise InputError("an empty list was given; give at least one picture or text")
        return self._read_pictures(raws) if self.kind == "image" else self._read_texts(raws, truncate)

    def _read_texts(self, raws: list[Any], truncate: bool) -> tuple[Reading, list[str]]:
        batch = read_texts(self.processor, self.model, raws, truncate)
        self._check_padding(batch.inputs["attention_mask"])
        return Reading(
            inputs=self._fit(_renamed(batch.inputs, "input_ids", self.stream)),
            raw={self.stream: batch.texts},
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
        pictures, parts, views, notes = [], [], [], []
        for number, raw in enumerate(raws):
            pixels, name = read_picture(raw, number)
            try:
                parts.append(self._process(pixels))
                view = self._view(pixels)
            except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as e:
                size = f"{pixels.shape[1]} x {pixels.shape[0]}"
                raise InputError(f"the image processor cannot take {name} ({size} pixels): {e}") from e
            if view.box is None:
                notes.append(f"what part of {name} the model saw could not be found; the map is drawn over all of it")
            height, width = pixels.shape[:2]
            pictures.append(Picture(pixels, view.box or (0.0, 0.0, float(width), float(height)), name))
            views.append(view)
        return Reading(
            inputs=self._fit(_stack(parts)),
            raw={self.stream: pictures},
            labels=self.labels or None,
            mean=views[0].mean,
            std=views[0].std,
        ), notes

    def _process(self, pixels: Pixels) -> dict[str, Tensor]:
        """Run the image processor on one picture; return keyword tensors with a batch axis of one."""
        from PIL import Image

        image = Image.fromarray(pixels.numpy())
        if hasattr(self.processor, "preprocess"):
            made = self.processor(images=[image], return_tensors="pt")
            tensors = {key: value for key, value in made.items() if isinstance(value, Tensor)}
            return _renamed(tensors, "pixel_values", self.stream)
        return {self.stream: self.processor(image)[None]}

    def _view(self, pixels: Pixels) -> View:
        """Return what part of such a picture the model sees, measured once for each size."""
        height, width = pixels.shape[:2]
        if (width, height) not in self._views:
            self._views[width, height] = probe(lambda p: self._process(p)[self.stream][0], width, height)
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


def _face() -> Any:
    """Return the package itself, late: it imports this one."""
    return importlib.import_module("regard")


def _stream(model: nn.Module, kind: Kind) -> str:
    """Return the forward's keyword for pictures or token ids: the usual one, else the model's first."""
    usual = "pixel_values" if kind == "image" else "input_ids"
    every = inspect.signature(model.forward).parameters.values()
    parameters = [p.name for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if usual in parameters or not parameters:
        return usual
    said = getattr(model, "main_input_name", None)
    return said if said in parameters else parameters[0]


def _renamed(inputs: dict[str, Tensor], usual: str, stream: str) -> dict[str, Tensor]:
    """Give the stream the name that the model's forward has for it."""
    return {stream if key == usual else key: value for key, value in inputs.items()}


def _stack(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join pictures into one batch."""
    shapes = {key: {tuple(part[key].shape[1:]) for part in parts} for key in parts[0]}
    for key, found in shapes.items():
        if len(found) > 1:
            sizes = ", ".join("x".join(map(str, s)) for s in sorted(found))
            raise InputError(f"these pictures have {key} of different sizes ({sizes}); give them one by one")
    return {key: torch.cat([part[key] for part in parts]) for key in shapes}
