"""One picture and several texts, which are the classes that the model compares it with (CLIP, SigLIP; zero-shot)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.explanation.raw_inputs import Text
from regard.models import pairs
from regard.models.chats import is_chat
from regard.models.default_targets import compares


def are_texts(prompt: Any) -> bool:
    """Whether what was given beside a picture is a list of texts."""
    return isinstance(prompt, list) and not is_chat(prompt)


def check(model: nn.Module, texts: Sequence[Any], pictures: int) -> None:
    """Raises InputError for what cannot be compared."""
    name = type(model).__name__
    if not compares(model):
        raise InputError(
            f"{name} reads one text beside a picture; a list of them is for models that compare a picture with texts, such "
            "as CLIP"
        )
    if pictures != 1:
        raise InputError(f"one picture is compared with several texts, and {pictures} were given; give them one by one")
    if not texts:
        raise InputError("the list of texts is empty; give the texts that the picture is to be compared with")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {number} is not a text but {type(text).__name__}")
        if not text.strip():
            raise InputError(f"text {number} is empty; give it at least one word")


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
