"""Objects that hold a model and what reads raw inputs for it: pipelines, trainers, cross-encoders, SentenceTransformers.

They are told by their parts, not by their classes, so that no library is imported for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from regard.errors import InputError
from regard.explanation.files import article

JOINED = ("processor", "processing_class")
SINGLE = ("tokenizer", "image_processor", "feature_extractor")
GIVE = "a name, a folder, a module with processor=, or what holds both (a pipeline, a SentenceTransformer)"


@dataclass(frozen=True)
class Preprocessors:
    """What reads texts, pictures and sound for one model, where nothing joins them."""

    tokenizer: Any = None
    image_processor: Any = None
    feature_extractor: Any = None


def take_apart(given: Any, processor: Any) -> tuple[nn.Module, Any]:
    """The model that an object holds, and the processor that was given, else the object's own; a module is its own model.

    Raises InputError for an object that holds no model, or more than one.
    """
    if isinstance(given, nn.Module) and (embeds_sentences(given) or not _speaks(given)):
        return given, processor if processor is not None else _reads(given)
    model = getattr(given, "model", None)
    if not isinstance(model, nn.Module):
        raise InputError(f"regard.load cannot take {article(type(given).__name__)}; give {GIVE}")
    others = [
        name for name, part in _modules(given) if set(map(id, part.parameters())) - set(map(id, model.parameters()))
    ]
    if others:
        raise InputError(
            f"this {type(given).__name__} computes with more than its model ({', '.join(others)}), which Regard would leave "
            "out; give a module that does all of it, with processor="
        )
    return model, processor if processor is not None else _reads(given)


def embeds_sentences(model: Any) -> bool:
    """Whether it is a SentenceTransformer: a chain of modules that fill in one dict, told by its tokenizer and `encode`."""
    chain = isinstance(model, nn.Sequential) and len(model) > 0
    return chain and callable(getattr(model, "encode", None)) and getattr(model, "tokenizer", None) is not None


def _speaks(given: nn.Module) -> bool:
    """Whether a module reads raw inputs by itself, and so only wraps the model (a cross-encoder)."""
    return callable(getattr(given, "predict", None)) and isinstance(getattr(given, "model", None), nn.Module)


def _modules(given: Any) -> Iterator[tuple[str, nn.Module]]:
    """Every module that an object holds, and what it is called there."""
    if isinstance(given, nn.Module):
        yield type(given).__name__, given
    for name, value in vars(given).items():
        if isinstance(value, nn.Module):
            yield name, value


def _reads(given: Any) -> Any:
    """What reads raw inputs in an object that holds a model; None where nothing does."""
    for name in JOINED:
        if getattr(given, name, None) is not None:
            return getattr(given, name)
    parts = {name: part for name in SINGLE if (part := getattr(given, name, None)) is not None}
    return next(iter(parts.values())) if len(parts) == 1 else Preprocessors(**parts) if parts else None
