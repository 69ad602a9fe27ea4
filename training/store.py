"""What the training scripts share: their options, the learning rate schedule, readers, the model card, the move into place."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import Module
from transformers import PreTrainedTokenizerFast

Card = dict[str, Any]

NOTICE = """The scenes in this folder show items of Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist:

The MIT License (MIT) Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def warm_cosine(step: int, steps: int, warm: float = 0.05) -> float:
    """Return the learning rate factor 0..1 at ``step`` of ``steps``: linear warm-up, then half a cosine to zero."""
    start = max(1, round(warm * steps))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def options(name: str, rate: float, data: str = "") -> argparse.ArgumentParser:
    """Return the options that every script has; ``data`` says what the folder of ``--data`` holds, "" where there is none."""
    parser = argparse.ArgumentParser(description=f"train {name}")
    if data:
        parser.add_argument("--data", type=Path, required=True, help=f"folder with {data}")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced only when all is done")
    parser.add_argument("--rate", type=float, default=rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def seeded(args: argparse.Namespace) -> torch.Generator:
    """Set the threads and the seed of a run; return a generator of its own."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return torch.Generator().manual_seed(args.seed)


def command(args: argparse.Namespace, name: str, own: Sequence[str], data: str = "") -> str:
    """Return the command line that trains the model anew; ``own`` are options of this script, before the common ones."""
    folder = name.removeprefix("zoo/")
    words = [f"python -m training.{folder.replace('-', '_')}"]
    words += [f"--data ../shared/data/{data}"] if data else []
    words += [f"--out src/regard/zoo/{folder}"]
    return " ".join(words + [f"--{o} {getattr(args, o)}" for o in [*own, "seed", "threads"]])


def fresh(out: Path) -> Path:
    """Return a new empty folder beside ``out``, to be moved there by ``swap``."""
    new = out.with_name(out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    return new


def word_tokenizer(
    vocabulary: Sequence[str], single: str, marks: Sequence[str], unk_token: str, **special: Any
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words, lower case, stops split off; ``single`` puts ``marks`` around a text."""
    ids = {word: i for i, word in enumerate(vocabulary)}
    words = Tokenizer(models.WordLevel(ids, unk_token=unk_token))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single=single, special_tokens=[(w, ids[w]) for w in marks])
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token=unk_token, **special)


def write_picture_processor(folder: Path, kind: str, side: int, **more: object) -> None:
    """Write the picture processor of a model: ``side`` x ``side`` px, mean and deviation 0.5."""
    processor = {
        "image_processor_type": kind,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    write_json(folder / "preprocessor_config.json", processor | more)


def parameters(model: Module) -> int:
    """Return the number of parameters of ``model``."""
    return sum(p.numel() for p in model.parameters())


def write_notice(folder: Path) -> None:
    """Write the licence of the items in bundled scenes."""
    (folder / "LICENSE-fashion-mnist.txt").write_text(NOTICE, encoding="utf-8")


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
