"""Classifiers that the tests of this folder share: random ones in float64, and one trained on the language of our own."""

from __future__ import annotations

import pytest
import torch

from regard.theory import AttentionClassifier, Corpus, language, train

WORDS = [f"w{i}" for i in range(30)]


def random_classifier(
    seed: int = 0, heads: int = 3, keys: int = 5, values: int = 7, std: float = 0.6
) -> AttentionClassifier:
    """Weights as large as those of a trained one, so that attention is far from uniform."""
    model = AttentionClassifier(WORDS, heads=heads, width=12, keys=keys, values=values).double().eval()
    draw = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=std, generator=draw)
    return model


def text(seed: int, d: int, again: int = 2) -> list[str]:
    """d distinct words, the first ones twice."""
    order = torch.randperm(len(WORDS), generator=torch.Generator().manual_seed(seed)).tolist()[:d]
    return [WORDS[i] for i in [*order, *order[:again]]]


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return language(0, train=2000, dev=100, test=300)


@pytest.fixture(scope="session")
def trained(corpus: Corpus) -> AttentionClassifier:
    return train(corpus, seed=0)
