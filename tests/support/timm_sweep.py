"""Tiny random models of timm and torchvision, and what is known of each from its architecture (as sweep.py).

They run in an environment of their own: `make test-timm`. Their input is called `x`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm.models as M
import torch
import torchvision.models as V
from timm.models.levit import LevitDistilled
from timm.models.maxxvit import MaxxVitCfg, MaxxVitTransformerCfg
from timm.models.mvitv2 import MultiScaleVitCfg
from timm.models.naflexvit import NaFlexVitCfg
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock, ResPostBlock
from torch import Tensor, nn
from torchvision.models import swin_transformer as tv_swin

from support.family import Family, Refusal
from support.tiny import noise

GROUPS = ("timm", "torchvision")
FAMILIES: dict[str, Family] = {}
REFUSED: dict[str, Refusal] = {}
OPEN: dict[str, Refusal] = {}


def awake(model: nn.Module) -> nn.Module:
    """Norms whose scale begins at zero (after a residual branch) at one: the branch counts."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1 and not bool(p.any()):
                p.fill_(1.0)
    return model


def first_class(out: Tensor) -> Tensor:
    return out[:, 1]


def row(name: str, kind: Callable[..., nn.Module], config: Mapping[str, Any], born: Mapping[str, int] | None = None, *,
        side: int = 16, grid: tuple[int, int] = (4, 4), **more: Any) -> None:  # fmt: skip
    """Add a model that takes a picture of side x side pixels, in grid cells, and tokens `born` from parameters."""
    refused, why, is_open = more.pop("refused", ""), more.pop("why", ""), more.pop("open", "")
    usual = {"streams": {**(born or {}), "x": grid[0] * grid[1]}, "grids": {"x": grid}, "core": True}
    group = "torchvision" if kind.__module__.startswith("torchvision") else "timm"
    family = Family(name, group, getattr(kind, "__name__", name), lambda: awake(kind(**{"num_classes": 3, **config})),
                    {"x": noise(2, 3, side, side)}, first_class, **usual | more)  # fmt: skip
    assert name not in {**FAMILIES, **REFUSED, **OPEN}, name
    if refused:
        REFUSED[name] = Refusal(family, refused, why)
    elif is_open:
        OPEN[name] = Refusal(family, "", is_open)
    else:
        FAMILIES[name] = family


S = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
CLS = {"cls_token": 1}
TALK = "talking heads: A is no softmax's result"

# -- plain ------------------------------------------------------------------------------------------------------------

row("vit", M.VisionTransformer, S, CLS)
row("vit-registers", M.VisionTransformer, {**S, "reg_tokens": 3}, {**CLS, "reg_token": 3})
row("vit-mean", M.VisionTransformer, {**S, "class_token": False, "global_pool": "avg"})
row("vit-siglip", M.VisionTransformer, {**S, "class_token": False, "global_pool": "map"}, {"latent": 1}, calls=3)
row("deit3", M.VisionTransformer, {**S, "no_embed_class": True, "init_values": 0.1}, CLS)
row("deit-distilled", M.VisionTransformerDistilled, S, {**CLS, "dist_token": 1})
row("vit-parallel", M.VisionTransformer, {**S, "block_fn": ParallelThingsBlock}, CLS, calls=4, added=((0, 1), (2, 3)))
row("vit-parallel-mlp", M.VisionTransformer, {**S, "block_fn": ParallelScalingBlock, "qk_norm": True}, CLS)
row("vit-post-norm", M.VisionTransformer, {**S, "block_fn": ResPostBlock}, CLS)
row("vit-relative", M.VisionTransformerRelPos, S)
row("beit", M.Beit, {**S, "use_rel_pos_bias": True, "init_values": 0.1}, CLS)
row("eva02", M.Eva, {**S, "swiglu_mlp": True, "use_rot_pos_emb": True, "scale_mlp": True}, CLS)
row("eva-registers", M.Eva, {
    **S, "num_reg_tokens": 2, "use_rot_pos_emb": True, "qkv_fused": False, "global_pool": "token"},
    {**CLS, "reg_token": 2})  # fmt: skip
row("cait", M.Cait, S, CLS, calls=4, operand=TALK)
row("convit", M.ConVit, {**S, "local_up_to_layer": 1}, CLS, operand="a gate joins two softmaxes: A is neither's result")
FLEX = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "pos_embed_grid_size": (4, 4)}
row("naflexvit", M.NaFlexVit, {"cfg": NaFlexVitCfg(**FLEX, class_token=True, global_pool="token", reg_tokens=1)},
    {**CLS, "reg_token": 1})  # fmt: skip
row("naflexvit-map", M.NaFlexVit, {"cfg": NaFlexVitCfg(**FLEX, class_token=False, global_pool="map")}, {"latent": 1},
    calls=3)  # fmt: skip
row("vit-sam", M.VisionTransformerSAM, {
    **S, "window_size": 2, "global_attn_indexes": (1,), "use_rel_pos": True, "neck_chans": 8},
    inexact="a learned mask: torch takes another kernel where it needs a gradient")  # fmt: skip

# -- windows, pyramids ------------------------------------------------------------------------------------------------

SWIN = {"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": (2, 1), "num_heads": (2, 2), "window_size": 4}
FOUR = {"embed_dims": (8,) * 4, "num_heads": (1, 2, 2, 2), "mlp_ratios": (2,) * 4, "sr_ratios": (4, 2, 1, 1)}
CONV = {"mixes": "convolutions before attention"}
row("swin", M.SwinTransformer, SWIN, grid=(8, 8), calls=3)
row("swin-s3", M.SwinTransformer, {**SWIN, "window_size": (4, 2)}, grid=(8, 8), calls=3)
row("swinv2", M.SwinTransformerV2, SWIN, grid=(8, 8), calls=3)
row("mvitv2", M.MultiScaleVit, {
    "cfg": MultiScaleVitCfg(depths=(1, 1), embed_dim=8, num_heads=1), "img_size": (32, 32)}, side=32, grid=(8, 8),
    **CONV)  # fmt: skip
row("pvt-v2", M.PyramidVisionTransformerV2, {**FOUR, "depths": (1,) * 4}, side=32, grid=(8, 8), calls=4)
row("twins-pcpvt", M.Twins, {**FOUR, "img_size": 32, "depths": (1,) * 4}, side=32, grid=(8, 8), calls=4)
row(
    "twins-svt",
    M.Twins,
    {**FOUR, "img_size": 32, "depths": (2,) * 4, "wss": (4, 4, 2, 1)},
    side=32,
    grid=(8, 8),
    calls=8,
)
row("nest", M.Nest, {
    "img_size": 16, "patch_size": 2, "num_levels": 2, "embed_dims": (8, 8), "num_heads": (2, 2), "depths": (1, 1)},
    grid=(8, 8))  # fmt: skip
row("gcvit-local", M.GlobalContextVit, {
    "img_size": 64, "embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2), "window_size": (4, 4)}, side=64, grid=(16, 16),
    **CONV)  # fmt: skip
row("tiny-vit", M.TinyVit, {"embed_dims": (8, 8), "depths": (1, 1), "num_heads": (1, 2), "window_sizes": (4, 4)}, side=32,
    calls=1, **CONV)  # fmt: skip
row("coatnet", M.MaxxVit, {
    "cfg": MaxxVitCfg(embed_dim=(8, 8), depths=(1, 2), block_type=("C", "T"), stem_width=8,
                      transformer_cfg=MaxxVitTransformerCfg(dim_head=4)), "img_size": 32}, side=32, **CONV)  # fmt: skip
MAXVIT = MaxxVitCfg(embed_dim=(8, 8), depths=(1, 1), block_type=("M", "M"), stem_width=8,
                    transformer_cfg=MaxxVitTransformerCfg(dim_head=4, window_size=(4, 4), grid_size=(4, 4)))  # fmt: skip
row("maxvit", M.MaxxVit, {"cfg": MAXVIT, "img_size": 32}, side=32, grid=(8, 8), calls=4, **CONV)
row("volo", M.VOLO, {
    "layers": [1, 1], "img_size": 32, "stem_hidden_dim": 8, "embed_dims": [8, 16], "num_heads": [2, 2],
    "downsamples": (True, False), "outlook_attention": (True, False), "use_aux_head": False}, CLS, side=32, grid=(2, 2),
    calls=3, mixes="outlooks and convolutions before attention",
    operand="an outlook's softmax weighs no keys: no call")  # fmt: skip
LEVIT = {"img_size": 64, "embed_dim": (16, 16), "key_dim": 4, "depth": (1, 1), "num_heads": (2, 2)}
row("levit", M.Levit, LEVIT, side=64, calls=3, **CONV)
row("levit-distilled", LevitDistilled, LEVIT, side=64, calls=3, **CONV)
row("pit", M.PoolingVisionTransformer, {
    "img_size": 16, "patch_size": 4, "stride": 2, "base_dims": (8, 8), "depth": (1, 1), "heads": (1, 2), "mlp_ratio": 2},
    CLS, grid=(7, 7))  # fmt: skip
row("crossvit", M.CrossVit, {
    "img_size": 32, "img_scale": (1.0, 1.0), "patch_size": (8, 16), "embed_dim": (8, 16), "depth": ((1, 1, 0),),
    "num_heads": (2, 2)}, {"cls_token_0": 1, "cls_token_1": 1}, side=32, calls=4, cuts={"x": 2})  # fmt: skip

# -- torchvision ------------------------------------------------------------------------------------------------------

TV_SWIN = {"patch_size": [2, 2], "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": [4, 4]}
row("torchvision-vit", V.VisionTransformer, {
    "image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24},
    {"class_token": 1}, inexact="torch's fast path of multi_head_attention is left")  # fmt: skip
row("torchvision-swin", tv_swin.SwinTransformer, TV_SWIN, grid=(8, 8), calls=3)
row("torchvision-swin-v2", tv_swin.SwinTransformer, {
    **TV_SWIN, "block": tv_swin.SwinTransformerBlockV2, "downsample_layer": tv_swin.PatchMergingV2}, grid=(8, 8),
    calls=3)  # fmt: skip
row("torchvision-maxvit", V.MaxVit, {
    "input_size": (32, 32), "stem_channels": 8, "partition_size": 4, "block_channels": [8, 8], "block_layers": [1, 1],
    "head_dim": 4, "stochastic_depth_prob": 0.0}, side=32, grid=(8, 8), calls=4, **CONV)  # fmt: skip

# -- refused, open ----------------------------------------------------------------------------------------------------

CHANNELS = "attention between channels, not between tokens"
row("xcit", M.Xcit, {**S, "patch_size": 8, "img_size": 32}, CLS, side=32, refused="weighs channels", why=CHANNELS)
row("davit", M.DaVit, {"depths": (1, 1), "embed_dims": (8, 8), "num_heads": (2, 2), "window_size": 4}, side=32,
    refused="weighs channels", why=f"every second call is {CHANNELS}")  # fmt: skip
row("coat", M.CoaT, {
    "img_size": 32, "embed_dims": (16,) * 4, "serial_depths": (1,) * 4, "num_heads": 8, "mlp_ratios": (2,) * 4,
    "patch_size": 4}, side=32, refused="no such map",
    why="factorised attention: a softmax over keys alone, no map of pairs")  # fmt: skip
row("hiera", M.Hiera, {
    "img_size": (32, 32), "embed_dim": 8, "num_heads": 1, "stages": (1, 1), "q_pool": 1, "mask_unit_size": (4, 4),
    "mask_unit_attn": (True, False)}, side=32, refused="amax",
    why="queries are pooled by a maximum: which token won depends on the input")  # fmt: skip
row("gcvit", M.GlobalContextVit, {
    "img_size": 64, "embed_dim": 8, "depths": (2, 1), "num_heads": (2, 2), "window_size": (4, 4)}, side=64, grid=(16, 16),
    open="queries pooled from the whole picture; the next stage is refused at `add of different tokens`")  # fmt: skip
row("tnt", M.TNT, {
    "img_size": 16, "patch_size": 8, "embed_dim": 16, "inner_dim": 8, "depth": 2, "num_heads_inner": 2,
    "num_heads_outer": 2}, CLS,
    open="a patch and the pixels inside it, two cuts of one picture, are added: refused by name")  # fmt: skip
