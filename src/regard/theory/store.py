"""A classifier on disk: a folder with its weights as safetensors, and its sizes and words as JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from regard.errors import InputError
from regard.explanation.writing import write_atomically
from regard.kinds import Within, fits
from regard.theory.classifier import AttentionClassifier

FORMAT = "regard.theory/1"
Size = Annotated[int, Within(most=4096)]
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write(model: AttentionClassifier, folder: Path, card: dict[str, Any] | None = None) -> list[str]:
    """Write the two files, each whole or not at all; the names. `card`: how it was trained, as JSON values.

    The JSON comes last and knows the weights by their digest, so that files of two models are never read as one.
    """
    data = save({name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()})
    config = {"format": FORMAT, **model.config, "sha256": hashlib.sha256(data).hexdigest(), "card": card or {}}
    write_atomically(folder / WEIGHTS, data)
    write_atomically(folder / CONFIG, json.dumps(config, indent=1, ensure_ascii=False).encode())
    return [WEIGHTS, CONFIG]


def read(folder: Path) -> tuple[AttentionClassifier, dict[str, Any]]:
    """The classifier of a folder, in eval mode, and its card.

    Raises InputError for files that are missing, damaged, of another format or not of one model.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        data = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError as e:
        raise InputError(f"{folder} has no {Path(e.filename).name}; give a folder that `regard theory` wrote") from e
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"the classifier in {folder} cannot be read: {e}") from e
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{folder / CONFIG} is not of a classifier ({FORMAT})")
    if config.get("sha256") != hashlib.sha256(data).hexdigest():
        raise InputError(f"{folder / WEIGHTS} and {CONFIG} are not of one classifier; write them again")
    try:
        sizes = {k: config[k] for k in ("heads", "width", "keys", "values", "length")}
        if not fits(config["words"], list[str]) or not all(fits(size, Size) for size in sizes.values()):
            raise TypeError("its words or its sizes are of another kind")
        model = AttentionClassifier(config["words"], **sizes)
        tensors = load(data)
        model.to(tensors["embedding.weight"].dtype).load_state_dict(tensors)
        card = dict(config["card"])
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as e:
        raise InputError(f"the classifier in {folder} is damaged: {(str(e).splitlines() or [''])[0]}") from e
    return model.eval(), card


__all__ = ["read", "write"]
