"""The table of methods: the one list that `explain`, the command line, the documents and the generated tests read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from regard.attribution.attention.attention_grad_cam import attention_grad_cam
from regard.attribution.attention.bti import bti_head, bti_token, transition_attention
from regard.attribution.attention.gae import gae
from regard.attribution.attention.heterogenous import heterogenous
from regard.attribution.attention.path_rules import Preset
from regard.attribution.context import Context, Relevance
from regard.attribution.integral.cam import difference_map, grad_cam, layer_cam, odam
from regard.attribution.integral.gradient import gradient, smoothgrad
from regard.attribution.integral.integrated import input_x_gradient, integrated_gradients, revised_ig, taylor
from regard.attribution.random import random
from regard.errors import Misuse, UnknownName, nearest
from regard.site import Site

Sites = Literal["input", "block[-2]", "block[-3]", "attention", "attention[last]", "none"]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        function: (context, **options) -> relevance (batch, row); for the attention family (`preset`), (**options) -> a
            `Preset` or `Fusion`, which share one walk, or context -> relevance.
        paper: where it comes from. passes: its cost. site, baseline: what it is measured against, in words.
        decomposes: whether it claims that its scores add up to T. signed: whether a negative score has a meaning.
        sites: kinds of sites that can be asked for. explicit: whether a baseline can be.
        keeps: what the recording must hold beside the calls: "states" between blocks, "branches" around calls (see `record`).
        needs: "maps", the attention maps of the run; "gradient", the gradient of the watched run itself. Without "maps" the
            method runs on any differentiable model.
    """

    name: str
    function: Callable[..., Any]
    paper: str
    passes: str = "1 forward + 1 gradient"
    site: Sites = "attention"
    baseline: str = "A = 0 at all calls"
    decomposes: bool = False
    signed: bool = False
    preset: bool = False
    summary: str = ""
    sites: tuple[str, ...] = ()
    explicit: bool = False
    keeps: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("maps", "gradient")

    def follows_maps(self, site: Site | None) -> bool:
        """Whether attention maps are needed, at this site."""
        return "maps" in self.needs or (site is not None and site.kind == "attention")

    @property
    def options(self) -> dict[str, Any]:
        """Option names with their defaults."""
        parameters = list(inspect.signature(self.function).parameters.values())[0 if self.preset else 1 :]
        return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}

    def check(self, options: dict[str, Any]) -> None:
        """Raise UnknownName for an option that the method does not take."""
        for name in options:
            if name not in self.options:
                raise nearest(name, self.options, f"option of method {self.name!r}")

    def is_signed(self, options: dict[str, Any]) -> bool:
        """Whether negative scores mean something, under these options."""
        if self.name in ("corrected_attention", "heterogenous"):
            sign = options.get("sign", "positive")
            return "signed" in ((sign,) if isinstance(sign, str) else sign)
        if self.name in ("gradient", "smoothgrad"):
            return bool(options.get("reduce", "l2") == "mean")
        return self.signed or bool(options.get("signed", False))


def _corrected(*, sign: str = "positive", layers: Sequence[int] | int | None = None, start_layer: int = 0,
               correction: str = "incomplete") -> Preset:  # fmt: skip
    """Corrected attention (arXiv 2605.11392), incomplete correction — our reading: each layer's map only is corrected."""
    if sign not in (signs := ("positive", "negative", "absolute", "signed")):
        raise nearest(sign, signs, "sign")
    if correction != "incomplete":
        raise Misuse(f"correction {correction!r} is not offered yet; use correction='incomplete'")
    if isinstance(layers, int):
        layers = (layers,)
    return Preset(sign, "residual_sum", None if layers is None else tuple(layers), start_layer)


def _rollout(*, start_layer: int = 0) -> Preset:
    """Attention rollout: (mean, rollout)."""
    return Preset("mean", "rollout", None, start_layer)


def _last(edge: str) -> Callable[[], Preset]:
    return lambda: Preset(edge, "last")


CHEFER = "Chefer et al., ICCV 2021"
ABNAR = "Abnar & Zuidema, ACL 2020"
LOPARDO = "Lopardo et al., ICML 2024 (arXiv 2402.03485)"
SIMONYAN = "Simonyan et al., 2014"
NO_UNIT: dict[str, Any] = {"site": "none", "baseline": "none"}
NEGLECTED = "arXiv 2605.22417"
STATES = ("input", "embeddings", "block")
PATH: dict[str, Any] = {"site": "input", "baseline": "zero, or as given", "decomposes": True, "signed": True,
                        "sites": (*STATES, "attention"), "explicit": True, "needs": ()}  # fmt: skip
CAM: dict[str, Any] = {"site": "block[-3]", "baseline": "zero at the site (implied)", "sites": STATES[1:], "needs": ()}
AT_INPUT: dict[str, Any] = {"site": "input", "needs": ("gradient",)}
CAM_PASSES = "3 forward + 2 gradient"
BTI: dict[str, Any] = {"passes": "1 forward + 1 gradient + steps x (1 forward + 1 gradient above the last call)",
                       "site": "attention[last]", "baseline": "A = 0 at the last call", "explicit": True}  # fmt: skip
CHEN = "Chen et al., TMLR 2023"
FORWARD = "1 forward (+ 1 gradient to find the read-out)"

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("raw_attention", _last("mean"), "Bahdanau et al., 2015", FORWARD, **NO_UNIT, preset=True,
               summary="mean over heads of the last attention map"),
        Method("rollout", _rollout, ABNAR, FORWARD, **NO_UNIT, preset=True,
               summary="product of row-normalised E_h A + I over all layers"),
        Method("attention_grad_cam", attention_grad_cam, "Selvaraju et al., 2017; " + CHEFER, site="attention[last]",
               baseline="A = 0 at the last call", summary="last attention map, heads weighted by their mean gradient"),
        Method("gae", gae, CHEFER, preset=True, summary="row of Π(I + E_h (G⊙A)₊)"),
        Method("corrected_attention", _corrected, "arXiv 2605.11392", preset=True,
               summary="row of Π(I + E), E the positive, negative, absolute or signed G⊙A"),
        Method("heterogenous", heterogenous, "arXiv 2605.27458", preset=True,
               summary="the same over several streams, paths told apart by the sources they visit; maps fused"),
        Method("gradient", gradient, SIMONYAN, **AT_INPUT, baseline="x - 1 (implied)",
               summary="gradient of the target at the input, reduced per token"),
        Method("input_x_gradient", input_x_gradient, "Shrikumar et al., 2016", **AT_INPUT, baseline="zero (implied)",
               decomposes=True, signed=True, sites=STATES, summary="input times gradient, summed per token"),
        Method("smoothgrad", smoothgrad, "Smilkov et al., 2017", "samples x (1 forward + 1 gradient)", site="input",
               needs=(), baseline="x - 1 (implied)", summary="mean gradient over seeded Gaussian noise, reduced per token"),
        Method("taylor", taylor, NEGLECTED, "3 forward + 2 gradient", **PATH, summary="(F - F0) times gradient at F"),
        Method("integrated_gradients", integrated_gradients, "Sundararajan et al., 2017", "nodes x (1 forward + 1 gradient)",
               **PATH, summary="(x - x0) times the mean gradient on the way from x0 to x"),
        Method("revised_ig", revised_ig, NEGLECTED, "nodes x (1 forward + 1 gradient)", **(PATH | {"site": "block[-2]"}),
               summary="integrated gradients at any layer, from the layer's own value at the baseline"),
        Method("grad_cam", grad_cam, "Selvaraju et al., 2017", CAM_PASSES, **CAM,
               summary="features weighted by their mean gradient, clamped"),
        Method("layer_cam", layer_cam, "Jiang et al., 2021", CAM_PASSES, **CAM,
               summary="features times their positive gradient"),
        Method("odam", odam, "Zhao & Chan, 2023", CAM_PASSES, **CAM, summary="features times gradient, clamped"),
        Method("difference_map", difference_map, NEGLECTED, CAM_PASSES, **(CAM | {"signed": True, "explicit": True}),
               summary="difference of two maps: of two targets, or of input and baseline"),
        Method("bti_token", bti_token, CHEN, **BTI, keeps=("states", "branches"),
               summary="row of Π(I + E_h A, keys by the length of their values) times the mean gradient of the last map"),
        Method("bti_head", bti_head, CHEN, **BTI, keeps=("states",),
               summary="row of Π(I + A, heads by their importance) times the mean gradient of the last map"),
        Method("transition_attention", transition_attention, "Yuan et al., 2021", **BTI, keeps=("states",),
               summary="Markov chain through the attention maps, times the mean gradient of the last one"),
        Method("alpha_avg", _last("mean"), LOPARDO, FORWARD, **NO_UNIT, preset=True,
               summary="last attention map, mean over heads"),
        Method("alpha_max", _last("max"), LOPARDO, FORWARD, **NO_UNIT, preset=True,
               summary="last attention map, maximum over heads"),
        Method("random", random, "floor", FORWARD, **NO_UNIT, needs=(), summary="seeded noise: the floor of every benchmark"),
    )
}  # fmt: skip


RENAMED = {
    "tam": "'tam' meant Transition Attention Maps (2021) here and means Token Activation Map (2025) to most people now: the "
    "first is 'transition_attention', the second 'token_activation_map', which is not offered yet"
}
"""Names that mean two things: what to say of them."""


def method(name: str) -> Method:
    """The row of a name. Raises UnknownName with the nearest names, or with both that the name may mean."""
    if name not in METHODS and name in RENAMED:
        raise UnknownName(RENAMED[name])
    if name not in METHODS:
        raise nearest(name, METHODS, "method")
    return METHODS[name]


def register(name: str, function: Callable[..., Relevance], **row: Any) -> None:
    """Add a method from outside: `function(context, **options)` -> relevance (batch, row); `row` as in `Method`.

    Raises Misuse where the name is taken or a field of the row is unknown.
    """
    if name in METHODS:
        raise Misuse(f"a method named {name!r} exists already; choose another name")
    unknown = set(row) - set(Method.__dataclass_fields__)
    if unknown:
        raise nearest(sorted(unknown)[0], Method.__dataclass_fields__, "field of the method table")
    sites = get_args(Sites)
    if row.get("site", "none") not in sites:
        raise nearest(str(row["site"]), sites, "site")
    METHODS[name] = Method(name, function, **({"paper": "registered", **NO_UNIT} | row))


@dataclass(frozen=True)
class MethodTable:
    """What `regard.methods()` returns: rows, printed as a table."""

    rows: tuple[Method, ...]

    def __iter__(self) -> Iterator[Method]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        head = ("method", "what it is", "passes", "site", "baseline", "decomposes", "paper")
        lines = [head] + [
            (m.name, m.summary, m.passes, m.site, m.baseline, "yes" if m.decomposes else "no", m.paper)
            for m in self.rows
        ]
        widths = [max(len(r[i]) for r in lines) for i in range(len(head))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in lines)

    __repr__ = __str__


def methods() -> MethodTable:
    """Every method, with its paper, cost, site, baseline, and whether it decomposes the target."""
    return MethodTable(tuple(METHODS.values()))


__all__ = ["METHODS", "Context", "Method", "MethodTable", "method", "methods", "register"]
