"""Tiny random models of a hundred Hugging Face families, and what is known of each from its architecture.

`FAMILIES`: explained. `REFUSED`: no map can be right, the error says why. `OPEN`: ours to mend, shown as such in the docs.
Calls, streams and grids are written down from the configuration (layers, patches, query tokens), not from what we recorded.
"""

from __future__ import annotations

from support.sweep import base, texts, senses, several, more  # isort: skip
from support.sweep.base import GROUPS

OUTSIDE: dict[str, set[str]] = {
    name: set(mixers)
    for mixers, names in {
        ("conv2d",): ("swin2sr", "sam-vision", "mobilevit", "levit", "segformer", "pvt-v2", "cvt"),
        ("conv1d",): ("data2vec-audio", "deberta-v2", "whisper", "lfm2", "wav2vec2-bert", "qwen2-audio",
                      "speech-to-text"),
        ("group_norm", "conv1d"): ("wav2vec2", "wavlm", "hubert", "unispeech", "unispeech-sat", "speecht5", "moonshine",
                                   "wav2vec2-conformer"),  # the first layer of the feature extractor: over time
        ("conv2d", "max_pool2d"): ("detr", "conditional-detr", "table-transformer", "dab-detr"),
        ("conv2d", "interpolate"): ("dpt", "depth-anything", "glpn"),
        ("conv2d", "interpolate", "group_norm"): ("maskformer",),  # the pixel decoder
        ("sum",): ("patchtst",),  # the series is brought to mean 0 and variance 1
        ("sum", "min"): ("timesfm",),  # the same, of the first patch that is not padding
        ("mul", "add"): ("clipseg",),  # FiLM: words over patches
        ("conv2d", "conv1d"): ("parakeet",),
        ("interpolate",): ("clap",),  # the spectrogram
        ("linear",): ("groupvit-vision",),  # a mixer over group tokens
        ("conv1d", "matmul"): ("convbert",),
        ("conv1d", "mul of different tokens"): ("jamba", "recurrent-gemma"),
    }.items()
    for name in names
}  # fmt: skip
"""Operations outside attention that mix tokens, by the models' papers: the receipt tells of them, and of no others."""

PLAIN: dict[str, dict[str, str]] = {
    **{name: {"cross_entropy": "the loss, beside the target"} for name in ("t5-labels", "bart-labels", "blip-vqa")},
    "nllb-moe": {"div": "an expert's share of two"},
    "gemma3n": {"mean": "the length of one state, which others are given"},
    "timesfm": {
        "sum": "the deviation of a series' first patch, by which all are divided",
        "div": "by the deviation of the first patch",
    },
    "bloom": {"GeLUFunctionBackward": "the activation, as an autograd function of the model's own"},
    "recurrent-gemma": {
        "SqrtBoundDerivativeBackward": "a gate's square root, as an autograd function of the model's own"
    },
}
"""Operations of no kind among the rules of the backward pass, and what they are: their gradient is the plain one."""

FAMILIES, REFUSED, OPEN = base.FAMILIES, base.REFUSED, base.OPEN

__all__ = ["FAMILIES", "GROUPS", "OPEN", "OUTSIDE", "PLAIN", "REFUSED", "more", "senses", "several", "texts"]
