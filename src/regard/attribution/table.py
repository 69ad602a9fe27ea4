"""The table of methods: the one list that `explain`, the command line, the documents and the generated tests read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from regard.attribution.formulas import Formula
from regard.attribution.method import Method, OwnSite
from regard.errors import Misuse, UnknownName, nearest
from regard.explanation.tables import as_html, in_columns

CHEFER = "Chefer et al., ICCV 2021"
ABNAR = "Abnar & Zuidema, ACL 2020"
LOPARDO = "Lopardo et al., ICML 2024 (arXiv 2402.03485)"
SIMONYAN = "Simonyan et al., 2014"
NO_UNIT: dict[str, Any] = {"site": OwnSite.NONE, "baseline": "none"}
NEGLECTED = "arXiv 2605.22417"
STATES = ("input", "embeddings", "block")
PATH: dict[str, Any] = {
    "site": OwnSite.INPUT,
    "baseline": "zero, or as given",
    "decomposes": True,
    "signed": True,
    "sites": (*STATES, "attention"),
    "explicit": True,
    "needs": (),
}
CAM: dict[str, Any] = {
    "site": OwnSite.LAST_BUT_TWO,
    "baseline": "zero at the site (implied)",
    "sites": STATES[1:],
    "needs": (),
}
AT_INPUT: dict[str, Any] = {"site": OwnSite.INPUT, "needs": ("gradient",)}
RULED: dict[str, Any] = {
    "site": OwnSite.INPUT,
    "baseline": "zero (implied)",
    "conserves": True,
    "signed": True,
    "sites": STATES,
    "needs": ("gradient",),
    "rules": "rule_set",
    "formula": Formula("g ⊙ F, g by rules", "0 at that site", "one node at t = 1, of a changed gradient"),
}
CAM_PASSES = "3 forward + 2 gradient"
BTI: dict[str, Any] = {
    "passes": "1 forward + 1 gradient + steps x (1 forward + 1 gradient above the last call)",
    "site": OwnSite.LAST_ATTENTION,
    "baseline": "A = 0 at the last call",
    "explicit": True,
}
CHEN = "Chen et al., TMLR 2023"
REMOVAL: dict[str, Any] = {
    "site": OwnSite.INPUT,
    "baseline": "units left out of attention, or as given",
    "signed": True,
    "explicit": True,
    "needs": ("calls",),
}
FORWARD = "1 forward (+ 1 gradient to find the read-out)"

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(
            "raw_attention",
            "attention.presets",
            "Bahdanau et al., 2015",
            FORWARD,
            **NO_UNIT,
            preset=True,
            floor=True,
            summary="mean over heads of the last attention map",
        ),
        Method(
            "rollout",
            "attention.presets",
            ABNAR,
            FORWARD,
            **NO_UNIT,
            preset=True,
            summary="product of row-normalised E_h A + I over all layers",
        ),
        Method(
            "attention_grad_cam",
            "attention.attention_grad_cam",
            "Selvaraju et al., 2017; " + CHEFER,
            site=OwnSite.LAST_ATTENTION,
            baseline="A = 0 at the last call",
            reads_last=True,
            summary="last attention map, heads weighted by their mean gradient",
        ),
        Method(
            "attention_eclip",
            "attention.eclip",
            "arXiv 2605.12952",
            "1 forward + 1 gradient above the last attention (+ 1 forward where attention is written out)",
            site=OwnSite.LAST_ATTENTION,
            baseline="A = 0 at the last call",
            keeps_with=("qk", "projected", "branches"),
            reads_last=True,
            summary="gradient of the last attention map, added over heads, weighed by how alike query and key are",
        ),
        Method(
            "grad_eclip",
            "attention.eclip",
            "Zhao et al., ICML 2024",
            "1 forward + 1 gradient above the last attention (+ 1 forward where attention is written out)",
            site=OwnSite.LAST_ATTENTION,
            baseline="A = 0 at the last call",
            keeps_with=("qk", "projected", "branches"),
            reads_last=True,
            summary="the same by channels of the values: equal to attention_eclip",
        ),
        Method(
            "legrad",
            "attention.legrad",
            "Bousselham et al., ICCV 2025",
            "1 forward + layers x (1 forward + 1 gradient above that layer)",
            **NO_UNIT,
            keeps=("states",),
            reads_last=True,
            summary="positive gradient at the last layers' maps, of the target read from that layer's mean token",
        ),
        Method(
            "maskclip",
            "attention.maskclip",
            "Zhou et al., ECCV 2022",
            "3 forward + 1 forward above the last block a token",
            **NO_UNIT,
            keeps=("states",),
            signed=True,
            only_of="models of pictures",
            summary="the target read from each patch alone, made of its own value in the last attention",
        ),
        Method(
            "token_activation_map",
            "token_activation_map",
            "Li et al., ICCV 2025",
            "1 forward",
            **NO_UNIT,
            keeps=("states",),
            needs=("calls", "scores"),
            only_of="models that write about a picture",
            summary="the written token's logit at each patch, less what earlier words say of the same patches",
        ),
        Method("gae", "attention.gae", CHEFER, preset=True, compared=9, summary="row of Π(I + E_h (G⊙A)₊)"),
        Method(
            "corrected_attention",
            "attention.presets",
            "arXiv 2605.11392",
            preset=True,
            signed_by=("sign", "signed"),
            summary="row of Π(I + E), E the positive, negative, absolute or signed G⊙A",
        ),
        Method(
            "heterogenous",
            "attention.heterogenous",
            "arXiv 2605.27458",
            preset=True,
            signed_by=("sign", "signed"),
            summary="the same over several streams, paths told apart by the sources they visit; maps fused",
        ),
        Method(
            "gradient",
            "integral.gradient",
            SIMONYAN,
            **AT_INPUT,
            baseline="x - 1 (implied)",
            unit_step=True,
            signed_by=("reduce", "mean"),
            formula=Formula("g", "F − 1", "one node at t = 1, step 1"),
            compared=8,
            summary="gradient of the target at the input, reduced per token",
        ),
        Method(
            "input_x_gradient",
            "integral.integrated",
            "Shrikumar et al., 2016",
            **AT_INPUT,
            baseline="zero (implied)",
            decomposes=True,
            signed=True,
            sites=STATES,
            formula=Formula("g ⊙ F", "0 at that site"),
            compared=1,
            summary="input times gradient, summed per token",
        ),
        Method(
            "smoothgrad",
            "integral.gradient",
            "Smilkov et al., 2017",
            "samples x (1 forward + 1 gradient)",
            site=OwnSite.INPUT,
            needs=(),
            baseline="x - 1 (implied)",
            unit_step=True,
            signed_by=("reduce", "mean"),
            formula=Formula("g, mean over noise", "F − 1", "one node at t = 1, step 1, blurred"),
            summary="mean gradient over seeded Gaussian noise, reduced per token",
        ),
        Method(
            "taylor",
            "integral.integrated",
            NEGLECTED,
            "3 forward + 2 gradient",
            **PATH,
            formula=Formula("g ⊙ (F − F0)", "explicit F0"),
            compared=2,
            summary="(F - F0) times gradient at F",
        ),
        Method(
            "integrated_gradients",
            "integral.integrated",
            "Sundararajan et al., 2017",
            "nodes x (1 forward + 1 gradient)",
            **PATH,
            formula=Formula("(F − F0) ⊙ mean of g", "explicit F0", "{nodes}"),
            compared=3,
            summary="(x - x0) times the mean gradient along the path from x0 to x",
        ),
        Method(
            "revised_ig",
            "integral.integrated",
            NEGLECTED,
            "nodes x (1 forward + 1 gradient)",
            **(PATH | {"site": OwnSite.LAST_BUT_ONE}),
            formula=Formula("(F − F0) ⊙ mean of g, signed", "F0 = F(x0)", "{nodes}"),
            compared=4,
            summary="integrated gradients at any layer, from the layer's own value at the baseline",
        ),
        Method(
            "grad_cam",
            "integral.cam",
            "Selvaraju et al., 2017",
            CAM_PASSES,
            **CAM,
            formula=Formula("(Σ w F)₊, w the mean of g over tokens", "0 at that site"),
            compared=5,
            summary="features weighted by their mean gradient, clamped",
        ),
        Method(
            "layer_cam",
            "integral.cam",
            "Jiang et al., 2021",
            CAM_PASSES,
            **CAM,
            formula=Formula("Σ (g)₊ F", "0 at that site"),
            compared=6,
            summary="features times their positive gradient",
        ),
        Method(
            "odam",
            "integral.cam",
            "Zhao & Chan, 2023",
            CAM_PASSES,
            **CAM,
            formula=Formula("(Σ g F)₊", "0 at that site"),
            compared=7,
            summary="features times gradient, clamped",
        ),
        Method(
            "difference_map",
            "integral.cam",
            NEGLECTED,
            CAM_PASSES,
            **(CAM | {"signed": True, "explicit": True}),
            formula=Formula("map(x) − map(x0)", "x0 (but it is no part of y(x) − y(x0))"),
            summary="difference of two maps: of two targets, or of input and baseline",
        ),
        Method(
            "bti_token",
            "attention.bti",
            CHEN,
            **BTI,
            keeps=("states", "branches"),
            summary="row of Π(I + E_h A, keys by the length of their values) times the mean gradient of the last map",
        ),
        Method(
            "bti_head",
            "attention.bti",
            CHEN,
            **BTI,
            keeps=("states",),
            summary="row of Π(I + A, heads by their importance) times the mean gradient of the last map",
        ),
        Method(
            "transition_attention",
            "attention.bti",
            "Yuan et al., 2021",
            **BTI,
            keeps=("states",),
            summary="Markov chain through the attention maps, times the mean gradient of the last one",
        ),
        Method(
            "attnlrp",
            "backward",
            "Achtibat et al., ICML 2024",
            **RULED,
            summary="input times gradient, by rules of LRP for attention, norms, activations and gates",
        ),
        Method(
            "cp_lrp",
            "backward",
            "Ali et al., ICML 2022",
            **RULED,
            summary="the same with attention weights and gates held constant; adds up to the target in bias-free decoders",
        ),
        Method(
            "gim",
            "backward",
            "gradient interaction modifications, 2026",
            **RULED,
            summary="input times gradient, softmaxes warmer and products halved on the way back",
        ),
        Method(
            "occlusion",
            "removal.occlusion",
            "Zeiler & Fergus, ECCV 2014",
            "4 forward + 2 gradient + 1 forward a unit",
            **REMOVAL,
            summary="how far the target falls without each unit",
        ),
        Method(
            "lime",
            "removal.lime",
            "Ribeiro et al., KDD 2016",
            "4 forward + 2 gradient + samples x 1 forward",
            **REMOVAL,
            summary="weighted ridge regression of the target on which units are there",
        ),
        Method(
            "shap_kernel",
            "removal.lime",
            "Lundberg & Lee, NeurIPS 2017",
            "4 forward + 2 gradient + samples x 1 forward",
            **(REMOVAL | {"decomposes": True}),
            summary="Shapley values of the units, by the same regression under KernelSHAP's weights",
        ),
        Method(
            "interaction",
            "removal.interaction",
            "Baniecki et al., NeurIPS 2025 (FIxLIP)",
            "1 forward + 1 gradient + 400 pictures and 128 texts, each encoded once",
            site=OwnSite.INPUT,
            baseline="units left out of attention",
            signed=True,
            only_of="models that encode a picture and a text apart",
            summary="what a patch or word adds, and each pair beyond that: random patches and words left out, crossed",
        ),
        Method(
            "attention_mask",
            "removal.attention_mask",
            "Shi et al., ICML 2021",
            "3 forward + 1 gradient + steps x (1 forward + 1 gradient)",
            **NO_UNIT,
            summary="how likely each key is kept by a sparse mask, learned to leave the target where it is",
        ),
        Method(
            "alpha_avg",
            "attention.presets",
            LOPARDO,
            FORWARD,
            **NO_UNIT,
            preset=True,
            summary="last attention map, mean over heads",
        ),
        Method(
            "alpha_max",
            "attention.presets",
            LOPARDO,
            FORWARD,
            **NO_UNIT,
            preset=True,
            summary="last attention map, maximum over heads",
        ),
        Method(
            "random",
            "random",
            "floor",
            FORWARD,
            **NO_UNIT,
            needs=(),
            floor=True,
            summary="seeded noise: the floor of every benchmark",
        ),
    )
    if m.home != "backward" or find_spec("regard.attribution.backward")
}
"""The rules of `backward` can be left out of a build: then their methods are not offered."""


RENAMED = {
    "tam": "'tam' meant Transition Attention Maps (2021) here and means Token Activation Map (2025) to most people now: the "
    "first is 'transition_attention', the second 'token_activation_map', which is not offered yet"
}
"""Names that mean two things: what to say of them."""


ALIASES = {"heterogeneous": "heterogenous", "kernel_shap": "shap_kernel", "kernelshap": "shap_kernel"}
"""Other spellings of a name."""


def method(name: str) -> Method:
    """The row of a name. Raises UnknownName with the nearest names, or with both that the name may mean."""
    name = ALIASES.get(name, name)
    if name not in METHODS and name in RENAMED:
        raise UnknownName(RENAMED[name])
    if name not in METHODS:
        raise nearest(name, METHODS, "method")
    return METHODS[name]


def register(name: str, function: Callable[..., Any], **row: Any) -> None:
    """Add a method from outside: `function(context, **options)` -> relevance (batch, row); `row` as in `Method`.

    Raises Misuse where the name is taken or a field of the row is unknown.
    """
    if name in METHODS or name in ALIASES:
        raise Misuse(f"a method named {name!r} exists already; choose another name")
    unknown = set(row) - set(Method.__dataclass_fields__)
    if unknown:
        raise nearest(sorted(unknown)[0], Method.__dataclass_fields__, "field of the method table")
    sites = [str(site) for site in OwnSite]
    if row.get("site", "none") not in sites:
        raise nearest(str(row["site"]), sites, "site")
    row = {"paper": "registered", **NO_UNIT} | row
    METHODS[name] = Method(name, function, **(row | {"site": OwnSite(row["site"])}))


HEAD = ("method", "what it is", "passes", "site", "baseline", "decomposes", "paper")


@dataclass(frozen=True)
class MethodTable:
    """What `regard.methods()` returns: rows, printed as a table."""

    rows: tuple[Method, ...]

    def __iter__(self) -> Iterator[Method]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (m.name, m.summary, m.passes, m.site, m.baseline, "yes" if m.decomposes else "no", m.paper)
            for m in self.rows
        ]

    def __str__(self) -> str:
        return "\n".join(in_columns([HEAD, *self._cells()]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(HEAD, self._cells())


def methods() -> MethodTable:
    """Every method, with its paper, cost, site, baseline, and whether it decomposes the target."""
    return MethodTable(tuple(METHODS.values()))


__all__ = ["METHODS", "Method", "MethodTable", "method", "methods", "register"]
