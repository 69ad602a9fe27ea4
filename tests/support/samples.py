"""Models whose samples read one another, and models that keep them apart."""

import torch
import torch.nn.functional as F
from torch import nn


class Encoder(nn.Module):
    """An encoder, and whatever comes after it."""

    def __init__(self, head, **how):
        super().__init__()
        self.body = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, **how), 2, enable_nested_tensor=False
        )
        self.fc = nn.Linear(16, 3)
        self.bn = nn.BatchNorm1d(16)
        self.head = head

    def forward(self, x):
        return self.head(self, self.body(x))


def unit(z):
    return F.normalize(z, dim=-1)


MIXED = {
    "similarities in a batch": lambda m, z: unit(z[:, 0]) @ unit(z[:, 0]).T,
    "einsum of pairs": lambda m, z: torch.einsum("i d, j d -> i j", z.mean(1), z.mean(1)),
    "pairs by broadcasting": lambda m, z: (z[:, None, 0] * z[None, :, 0]).sum(-1),
    "distances": lambda m, z: -torch.cdist(z[:, 0], z[:, 1]),
    "less the mean of the batch": lambda m, z: m.fc(z[:, 0] - z[:, 0].mean(0)),
    "each reads the one before": lambda m, z: m.fc(z[:, 0] + z[:, 0].roll(1, 0)),
    "running sum": lambda m, z: m.fc(z[:, 0].cumsum(0)),
    "statistics of the batch": lambda m, z: m.fc(F.batch_norm(z[:, 0], None, None, training=True)),
    "softmax over the batch": lambda m, z: m.fc(z[:, 0]).softmax(0),
}

# -- independent ones -------------------------------------------------------------------------------------------------


class Folded(nn.Module):
    """From scratch: heads put into the batch, head first, and layers that take the sequence first."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.norm, self.fc = (
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            nn.LayerNorm(16),
            nn.Linear(16, 3),
        )

    def forward(self, x):
        x = x.transpose(0, 1)
        q, k, v = (torch.cat(t.transpose(0, 1).split(8, 2), 0) for t in self.qkv(self.norm(x)).chunk(3, -1))
        o = (q @ k.mT / 8**0.5).softmax(-1) @ v
        x = x + self.out(torch.cat(o.chunk(2, 0), 2).transpose(0, 1))
        return self.fc(x.permute(1, 2, 0).mean(-1))


class Ported(nn.Module):
    """A port from JAX: einsum over named axes, means over axes, a dict."""

    def __init__(self):
        super().__init__()
        self.w = nn.ParameterDict({k: nn.Parameter(torch.zeros(16, 2, 8)) for k in "qkv"})
        self.o = nn.Parameter(torch.zeros(2, 8, 16))
        self.scale, self.head = nn.Parameter(torch.ones(16)), nn.Parameter(torch.zeros(16, 3))

    def forward(self, x):
        n = (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-6) * self.scale
        q, k, v = (torch.einsum("btd,dhk->bthk", n, self.w[i]) for i in "qkv")
        a = torch.softmax(torch.einsum("bqhk,bshk->bhqs", q, k), -1)
        x = x + torch.einsum("bqhd,hde->bqe", torch.einsum("bhqs,bshd->bqhd", a, v), self.o)
        return {"logits": torch.einsum("bte,ec->bc", x, self.head)}


class Routed(nn.Module):
    """Experts: all samples' tokens in one row, sorted by the expert that takes them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.router, self.fc = nn.Linear(16, 2), nn.Linear(16, 3)

    def forward(self, x):
        x = self.layer(x)
        flat = x.reshape(-1, 16)
        which = self.router(flat).argmax(-1)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            mine = (which == i).nonzero()[:, 0]
            out = out.index_add(0, mine, expert(flat[mine]))
        return self.fc(x[:, 0] + out.view_as(x)[:, 0])


APART = {
    "cls": Encoder(lambda m, z: m.fc(z[:, 0])),
    "pre-norm, mean": Encoder(lambda m, z: m.fc(z.mean(dim=1)), norm_first=True),
    "batch norm of a head": Encoder(lambda m, z: m.fc(m.bn(z.amax(1))).log_softmax(-1)),
    "flat": Encoder(lambda m, z: m.fc(z.flatten(1)[:, 16:32])),
    "last by index": Encoder(lambda m, z: m.fc(z[torch.arange(len(z)), torch.tensor([4, 2, 0])])),
    "folded": Folded(),
    "ported": Ported(),
}
