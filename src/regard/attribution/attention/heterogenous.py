"""Heterogenous attention: a generic interpretation of co-attention, cross-attention and encoder-decoders.

Generic Interpretation Approach for Transformer Models Incorporating Heterogenous Attention Structures (arXiv 2605.27458);
formulas.md section 5. A call is homogenous when its queries and keys are of one source, heterogenous when they are of two.
Each source keeps its own propagation; which they are, and in which order calls read them, is read off the recording.
"""

from __future__ import annotations

from collections.abc import Sequence

from regard.attribution.attention.guidance import GuideMaps
from regard.attribution.attention.path_rules import Fusion, Preset
from regard.errors import Misuse, nearest
from regard.recording.relevance.propagation import HOPS

SIGNS = ("positive", "absolute", "signed")


def heterogenous(
    *,
    sign: str | Sequence[str] = "positive",
    hops: str | Sequence[str] = "all",
    fusion: str = "sum",
    correction: str = "incomplete",
    path: str = "residual_sum",
    guide: GuideMaps | None = None,
    start_layer: int = 0,
) -> Preset | Fusion:
    """The walk over all streams, each source's scores apart — our reading, exact for one-way structures (DETR).

    sign: E = E_h (G⊙A)₊, E_h |G⊙A| or E_h G⊙A. hops: "all" is the coupled roll-out of all sources. "one" keeps them
    independent: a path never re-enters a source that it has left; for two sources, the target's own stream is the ε⁰ term
    and the other the ε¹ term of the roll-out whose cross edges are all scaled by ε. "crossed" is what "all" has beside
    "one". Where `sign` or `hops` (or both) are several, each pair gives a map, and `fusion` joins them on every token:
    "sum", "mean", or "max_normalised", the mean of the maps each over its maximum on that source. `correction`, `path` and
    `guide` are those of `corrected_attention`.
    """
    signs, paths = (tuple(x) if isinstance(x, list | tuple) else (x,) for x in (sign, hops))
    for value, known, kind in [*((s, SIGNS, "sign") for s in signs), *((h, HOPS, "hops") for h in paths)]:
        if value not in known:
            raise nearest(str(value), known, kind)
    if not signs or not paths:
        raise Misuse("heterogenous needs at least one sign and one kind of hops; an empty list was given")
    if path not in ("residual_sum", "rollout"):
        raise nearest(str(path), ("residual_sum", "rollout"), "path")
    if path == "rollout" and set(paths) != {"all"}:
        raise Misuse("path='rollout' follows all paths alike; leave hops out, or use path='residual_sum'")
    presets = [Preset(s, path, None, start_layer, h, correction, guide) for s in signs for h in paths]
    return Fusion(tuple(presets), fusion)
