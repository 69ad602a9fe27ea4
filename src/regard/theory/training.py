"""How the classifier is trained: AdamW on batches of texts of like length, words left out at random, weights averaged."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from regard.theory.classifier import CLS, PAD, UNK, AttentionClassifier
from regard.theory.data import Corpus, Labelled, vocabulary

Told = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Recipe:
    """Choices of a training; those of the command line are the defaults."""

    heads: int = 4
    width: int = 64
    keys: int = 32
    values: int = 32
    epochs: int = 8
    batch: int = 64
    rate: float = 2e-3
    decay: float = 0.02
    dropout: float = 0.3
    unknown: float = 0.1
    smooth: float = 0.0
    average: float = 0.999
    least: int = 1
    neutral: float = 0.3
    phrases: bool = True
    length: int = 64


def recipe_of(corpus: Corpus) -> Recipe:
    """What was found to do well on a corpus: a small one of whole sentences, or a large one of phrases."""
    return Recipe() if all(t.whole for t in corpus.train) else Recipe(epochs=4)


def train(corpus: Corpus, recipe: Recipe = Recipe(), seed: int = 0, told: Told | None = None) -> AttentionClassifier:
    """A classifier trained on a corpus. The generator is its own: torch's is left as found.

    A share `unknown` of the words is shown as [UNK], so that a removed word is an input that the model knows; `dropout` acts
    on embeddings. What is returned is a running average of the weights.
    """
    draw = torch.Generator().manual_seed(seed)
    texts = chosen(corpus.train, recipe, draw)
    model = fresh(vocabulary([t for t in corpus.train if t.whole], recipe.least), recipe, draw)
    ids = [model.read(t.words)["input_ids"][0] for t in texts]
    labels = torch.tensor([t.label for t in texts])
    mean = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    plan = [rows for _ in range(recipe.epochs) for rows in batches(ids, recipe.batch, draw)]
    for step, rows in enumerate(plan):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * schedule(step, len(plan))
        shown = hidden(pad_sequence([ids[i] for i in rows], batch_first=True, padding_value=PAD), recipe.unknown, draw)
        e = model.embed(shown)
        kept = torch.rand(e.shape, generator=draw) >= recipe.dropout
        logits = model.classify(e * kept / (1 - recipe.dropout), (shown != PAD).long())[:, 0]
        optimiser.zero_grad()
        goal = labels[rows] * (1 - recipe.smooth) + recipe.smooth / 2
        F.binary_cross_entropy_with_logits(logits, goal).backward()
        optimiser.step()
        average(mean, model, min(recipe.average, (1 + step) / (10 + step)))
        if told is not None:
            told("training", step + 1, len(plan))
    return mean.eval()


def fresh(words: Sequence[str], recipe: Recipe, draw: torch.Generator) -> AttentionClassifier:
    """An untrained classifier, its weights drawn from the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=draw)))
        model = AttentionClassifier(
            words, heads=recipe.heads, width=recipe.width, keys=recipe.keys, values=recipe.values, length=recipe.length
        )
        for name, weight in model.named_parameters():
            torch.nn.init.normal_(weight, std=0.1 if name == "embedding.weight" else weight.shape[-1] ** -0.5)
    return model


def chosen(texts: Sequence[Labelled], recipe: Recipe, draw: torch.Generator) -> list[Labelled]:
    """What is trained on: texts with a side, and `neutral` times as many without one, in phrases too or not."""
    known = [t for t in texts if t.whole or recipe.phrases]
    sided, rest = [t for t in known if t.label != 0.5], [t for t in known if t.label == 0.5]
    picks = torch.randperm(len(rest), generator=draw)[: round(recipe.neutral * len(sided))]
    return sided + [rest[i] for i in picks.tolist()]


def batches(ids: Sequence[Tensor], size: int, draw: torch.Generator) -> list[list[int]]:
    """Texts of like length together, in random order."""
    lengths = torch.tensor([float(len(i)) for i in ids])
    order = torch.argsort(lengths + 2 * torch.rand(len(ids), generator=draw)).tolist()
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    return [parts[i] for i in torch.randperm(len(parts), generator=draw).tolist()]


def hidden(ids: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Ids with a share of the words shown as [UNK]."""
    return torch.where((torch.rand(ids.shape, generator=draw) < share) & (ids > CLS), UNK, ids)


def schedule(step: int, steps: int) -> float:
    """A factor of the rate: up in a twentieth of the steps, then half a cosine down."""
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.no_grad()
def average(mean: AttentionClassifier, model: AttentionClassifier, share: float) -> None:
    """Move the running average on: mean ← share · mean + (1 − share) · model."""
    for old, new in zip(mean.parameters(), model.parameters(), strict=True):
        old.lerp_(new, 1 - share)


@torch.no_grad()
def accuracy(model: AttentionClassifier, texts: Sequence[Labelled], batch: int = 256) -> float:
    """The share of texts whose f has the sign of their label."""
    right = 0
    for i in range(0, len(texts), batch):
        part = texts[i : i + batch]
        f = model(**model.read(*(t.words for t in part)))[:, 0]
        right += int(((f > 0) == torch.tensor([t.label > 0.5 for t in part])).sum())
    return right / len(texts)


__all__ = ["Recipe", "accuracy", "recipe_of", "train"]
