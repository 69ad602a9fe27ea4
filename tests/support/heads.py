"""Encoders whose head is written by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

transformers = pytest.importorskip("transformers")


class Encoder(nn.Module):
    """An encoder as courses write it: mean over tokens, a linear head, and what is made of it."""

    def __init__(self, outputs: int, last=lambda y: y):
        super().__init__()
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 2)
        self.fc = nn.Linear(16, outputs)
        self.last = last

    def forward(self, x):
        return self.last(self.fc(self.body(x).mean(dim=1)))


class Keyed(nn.Module):
    """A decoder in the style of JAX ports: heads by einsum, a dict for an output, no config."""

    def __init__(self, outputs: int):
        super().__init__()
        self.w = nn.ParameterDict({k: nn.Parameter(torch.zeros(16, 2, 8)) for k in "qkv"})
        self.o = nn.Parameter(torch.zeros(2, 8, 16))
        self.head = nn.Parameter(torch.zeros(16, outputs))

    def forward(self, x):
        q, k, v = (torch.einsum("btd,dhk->bthk", x, self.w[n]) for n in "qkv")
        a = F.softmax(torch.einsum("bqhk,bshk->bhqs", q, k) / 8**0.5, dim=-1)
        x = x + torch.einsum("bhqk,hkd->bqd", torch.einsum("bhqs,bshk->bhqk", a, v), self.o)
        return {"logits": x[:, -1] @ self.head}
