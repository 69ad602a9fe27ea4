"""Whole small models in the style of other people, of sets, graphs, videos and pictures."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.styles import CLASSES, HEAD, HEADS, WIDTH, clones

# -- Perceiver IO ------------------------------------------------------------------------------------------------------


class PerceiverAttention(nn.Module):
    """Heads are folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm_context = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.to_q, self.to_kv = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.to_out = nn.Linear(WIDTH, WIDTH)

    def fold(self, t: Tensor) -> Tensor:
        b, n, _ = t.shape
        return t.reshape(b, n, HEADS, HEAD).permute(0, 2, 1, 3).reshape(b * HEADS, n, HEAD)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        b, n, _ = x.shape
        x = self.norm(x)
        context = x if context is None else self.norm_context(context)
        q, (k, v) = self.to_q(x), self.to_kv(context).chunk(2, dim=-1)
        q, k, v = map(self.fold, (q, k, v))
        attn = (torch.einsum("b i d, b j d -> b i j", q, k) * HEAD**-0.5).softmax(dim=-1)
        out = torch.einsum("b i j, b j d -> b i d", attn, v)
        return self.to_out(out.view(b, HEADS, n, HEAD).transpose(1, 2).reshape(b, n, WIDTH))


class PerceiverIO(nn.Module):
    """Latents read the inputs twice (shared weights), then one another; output queries read the latents, without a residual."""

    def __init__(self, latents: int = 3, queries: int = 2) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, WIDTH))
        self.queries = nn.Parameter(torch.randn(queries, WIDTH))
        self.project, self.pos = nn.Linear(5, WIDTH), nn.Parameter(torch.randn(8, WIDTH))
        self.cross, self.decoder_cross = PerceiverAttention(), PerceiverAttention()
        self.selves = nn.ModuleList(PerceiverAttention() for _ in range(2))
        self.ff = nn.ModuleList(nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))
                                for _ in range(2))  # fmt: skip
        self.to_logits = nn.Linear(WIDTH, CLASSES)

    def forward(self, data: Tensor) -> Tensor:
        b, n, _ = data.shape
        data = self.project(data) + self.pos[:n]
        x = self.latents.unsqueeze(0).repeat(b, 1, 1)
        for attention, ff in zip(self.selves, self.ff, strict=True):
            x = self.cross(x, context=data) + x
            x = attention(x) + x
            x = ff(x) + x
        queries = self.queries.expand(b, -1, -1)
        return self.to_logits(self.decoder_cross(queries, context=x))[:, 0]


# -- Set Transformer ---------------------------------------------------------------------------------------------------


class MAB(nn.Module):
    """Heads first in the batch; the residual is the projected query."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_q, self.fc_k, self.fc_v, self.fc_o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.ln0, self.ln1 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, Q: Tensor, K: Tensor) -> Tensor:
        Q = self.fc_q(Q)
        K, V = self.fc_k(K), self.fc_v(K)
        Q_ = torch.cat(Q.split(HEAD, 2), 0)
        K_ = torch.cat(K.split(HEAD, 2), 0)
        V_ = torch.cat(V.split(HEAD, 2), 0)
        A = torch.softmax(Q_.bmm(K_.transpose(1, 2)) / math.sqrt(WIDTH), 2)
        O = torch.cat((Q_ + A.bmm(V_)).split(Q.size(0), 0), 2)
        O = self.ln0(O)
        return self.ln1(O + F.relu(self.fc_o(O)))


class SetTransformer(nn.Module):
    """Two induced set-attention blocks, pooling by a seed, one block over the seeds."""

    def __init__(self, induced: int = 3, seeds: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(5, WIDTH)
        self.I = nn.ParameterList(nn.Parameter(torch.randn(1, induced, WIDTH)) for _ in range(2))
        self.S = nn.Parameter(torch.randn(1, seeds, WIDTH))
        self.mab0, self.mab1 = clones(MAB(), 2), clones(MAB(), 2)
        self.pma, self.sab = MAB(), MAB()
        self.dec = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, X: Tensor) -> Tensor:
        X = self.embed(X)
        for I, mab0, mab1 in zip(self.I, self.mab0, self.mab1, strict=True):
            H = mab0(I.repeat(X.size(0), 1, 1), X)
            X = mab1(X, H)
        P = self.pma(self.S.repeat(X.size(0), 1, 1), X)
        return self.dec(self.sab(P, P).flatten(1))


# -- a graph transformer -----------------------------------------------------------------------------------------------


class Graphormer(nn.Module):
    """Scores get a bias of each pair's distance, looked up by index; a virtual node is joined to all, and is read."""

    def __init__(self) -> None:
        super().__init__()
        self.node, self.degree = nn.Linear(5, WIDTH), nn.Embedding(8, WIDTH)
        self.graph_token = nn.Embedding(1, WIDTH)
        self.spatial, self.virtual = nn.Embedding(6, HEADS), nn.Embedding(1, HEADS)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def bias(self, distance: Tensor) -> Tensor:
        n_graph, n_node = distance.shape[:2]
        bias = torch.zeros(n_graph, HEADS, n_node + 1, n_node + 1).type_as(self.virtual.weight)
        bias[:, :, 1:, 1:] = bias[:, :, 1:, 1:] + self.spatial(distance).permute(0, 3, 1, 2)
        t = self.virtual.weight.view(1, HEADS, 1)
        bias[:, :, 1:, 0] = bias[:, :, 1:, 0] + t
        bias[:, :, 0, :] = bias[:, :, 0, :] + t
        far = F.pad(distance > 4, (1, 0, 1, 0))
        return bias.masked_fill(far[:, None], float("-inf"))

    def forward(self, x: Tensor, distance: Tensor) -> Tensor:
        n_graph, n_node = x.shape[:2]
        x = self.node(x) + self.degree((distance == 1).sum(-1))
        x = torch.cat([self.graph_token.weight.unsqueeze(0).repeat(n_graph, 1, 1), x], dim=1)
        bias = self.bias(distance)
        for qkv, out in zip(self.qkv, self.out, strict=True):
            q, k, v = qkv(self.norm(x)).view(n_graph, n_node + 1, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
            a = torch.softmax((q * HEAD**-0.5) @ k.transpose(2, 3) + bias, dim=3)
            x = x + out((a @ v).transpose(1, 2).reshape(n_graph, n_node + 1, WIDTH))
        return self.head(x[:, 0, :])


# -- a video model with divided attention ------------------------------------------------------------------------------

FRAMES, SIDE, PATCH = 2, 4, 2

PATCHES = (SIDE // PATCH) ** 2


class JointAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        attn = (q * HEAD**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(B, N, C))


class DividedBlock(nn.Module):
    """Each patch attends to its own place over time, then to its frame and the class token, of which each frame has a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.temporal_norm1, self.norm1, self.norm2 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.temporal_attn, self.attn = JointAttention(), JointAttention()
        self.temporal_fc = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        B, C = x.shape[0], x.shape[2]
        init_cls, xt = x[:, :1], x[:, 1:]
        folded = xt.reshape(B * PATCHES, FRAMES, C)
        res_temporal = self.temporal_attn(self.temporal_norm1(folded)).reshape(B, PATCHES * FRAMES, C)
        xt = xt + self.temporal_fc(res_temporal)
        cls_token = init_cls.repeat(1, FRAMES, 1).reshape(B * FRAMES, C).unsqueeze(1)
        xs = xt.reshape(B, PATCHES, FRAMES, C).permute(0, 2, 1, 3).reshape(B * FRAMES, PATCHES, C)
        res_spatial = self.attn(self.norm1(torch.cat((cls_token, xs), 1)))
        cls_token = res_spatial[:, 0, :].reshape(B, FRAMES, C)
        cls_token = torch.mean(cls_token, 1, True)  # averaged over frames
        res_spatial = res_spatial[:, 1:, :].reshape(B, FRAMES, PATCHES, C).permute(0, 2, 1, 3)
        res_spatial = res_spatial.reshape(B, PATCHES * FRAMES, C)
        x = torch.cat((init_cls, xt), 1) + torch.cat((cls_token, res_spatial), 1)
        return x + self.mlp(self.norm2(x))


class TimeSformer(nn.Module):
    """(batch, channel, frame, height, width); the class token is read."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, PATCHES + 1, WIDTH))
        self.time_embed = nn.Parameter(torch.randn(1, FRAMES, WIDTH))
        self.blocks = nn.ModuleList(DividedBlock() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        B, C, T, H, W = x.shape
        x = self.proj(x.permute(0, 2, 1, 3, 4).reshape(B * T, C, H, W)).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.size(0), -1, -1), x), dim=1) + self.pos_embed
        cls_tokens = x[:B, 0, :].unsqueeze(1)
        x = x[:, 1:].reshape(B, T, PATCHES, WIDTH).permute(0, 2, 1, 3).reshape(B * PATCHES, T, WIDTH)
        x = (x + self.time_embed).reshape(B, PATCHES * T, WIDTH)
        x = torch.cat((cls_tokens, x), dim=1)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.norm(x)[:, 0])


# -- a masked autoencoder ----------------------------------------------------------------------------------------------


class MAE(nn.Module):
    """Patches are dropped by the order of `noise`, and mask tokens are put in their places again; pixels of all are guessed."""

    def __init__(self, keep: int = 5) -> None:
        super().__init__()
        self.keep, patches = keep, 9
        self.patch_embed = nn.Conv2d(3, WIDTH, 2, 2)
        self.cls_token, self.mask_token = (nn.Parameter(torch.randn(1, 1, WIDTH)) for _ in range(2))
        self.pos_embed, self.decoder_pos_embed = (nn.Parameter(torch.randn(1, patches + 1, WIDTH)) for _ in range(2))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks, self.decoder_blocks = clones(layer, 2), clones(layer, 1)
        self.decoder_embed, self.decoder_pred = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 12)
        self.register_buffer("noise", torch.tensor([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.6, 0.4]))

    def random_masking(self, x: Tensor) -> tuple[Tensor, Tensor]:
        N, _L, D = x.shape
        noise = torch.stack([self.noise.roll(i) for i in range(N)])  # noise of each sample
        ids_shuffle = torch.argsort(noise, dim=1)
        ids_restore = torch.argsort(ids_shuffle, dim=1)
        ids_keep = ids_shuffle[:, : self.keep]
        return torch.gather(x, dim=1, index=ids_keep.unsqueeze(-1).repeat(1, 1, D)), ids_restore

    def forward(self, imgs: Tensor) -> Tensor:
        x = self.patch_embed(imgs).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:, :]
        x, ids_restore = self.random_masking(x)
        cls_tokens = (self.cls_token + self.pos_embed[:, :1, :]).expand(x.shape[0], -1, -1)
        x = torch.cat((cls_tokens, x), dim=1)
        for blk in self.blocks:
            x = blk(x)
        x = self.decoder_embed(x)
        mask_tokens = self.mask_token.repeat(x.shape[0], ids_restore.shape[1] + 1 - x.shape[1], 1)
        x_ = torch.cat([x[:, 1:, :], mask_tokens], dim=1)
        x_ = torch.gather(x_, dim=1, index=ids_restore.unsqueeze(-1).repeat(1, 1, x.shape[2]))
        x = torch.cat([x[:, :1, :], x_], dim=1) + self.decoder_pos_embed
        for blk in self.decoder_blocks:
            x = blk(x)
        return self.decoder_pred(x)[:, 1:, :]
