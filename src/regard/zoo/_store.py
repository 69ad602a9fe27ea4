"""What the training scripts share: the learning rate schedule, the model card, the move into place."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from torch.nn import Module

Card = dict[str, Any]


def warm_cosine(step: int, steps: int, warm: float = 0.05) -> float:
    """Return the learning rate factor 0..1 at ``step`` of ``steps``: linear warm-up, then half a cosine to zero."""
    start = max(1, round(warm * steps))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def parameters(model: Module) -> int:
    """Return the number of parameters of ``model``."""
    return sum(p.numel() for p in model.parameters())


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def line(value: object) -> str:
    """Return ``value`` as one line of Markdown: mappings as ``key value`` pairs, fractions with four digits."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {line(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(line(inner) for inner in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def write_card(folder: Path, card: Card) -> None:
    """Write ``card`` twice: ``card.json`` for programs and ``README.md`` for readers, so that they cannot disagree."""
    write_json(folder / "card.json", card)
    head = f"---\nlicense: apache-2.0\n---\n\n# {card['name']}\n\n{card['what']}\n"
    titles = {key: key.replace("_", " ").capitalize() for key in card if key not in ("name", "what")}
    body = "".join(f"\n## {title}\n\n{line(card[key])}\n" for key, title in titles.items())
    (folder / "README.md").write_text(head + body, encoding="utf-8")


def swap(new: Path, out: Path) -> None:
    """Move the finished folder ``new`` to ``out``; an older ``out`` is removed only once the new one is in place."""
    old = out.with_name(out.name + ".old")
    for file in new.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner may read
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)
