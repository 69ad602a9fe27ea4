"""The table of rules: which operations are of which kind, and what a rule set does with each. formulas.md section 11.

Kinds are told by what an operation does and what its operands are made of, wherever the watch sees them: fused, functional, or
written out by hand. Values are the model's own, bit for bit. What depends on the inputs is what needs a gradient, since
parameters are constants here. An operation of no kind keeps its plain gradient, and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard.recording.backward.attention import Correctable, Warmer
from regard.recording.backward.functions import (
    favouring,
    group_norm_gradient,
    held,
    in_stead_of,
    instead,
    layer_norm_gradient,
    length_gradient,
    proportional,
    rms_norm_gradient,
    scaled,
    shared,
    softmax_gradient,
    warmer,
)
from regard.recording.backward.made_of import REDUCES, STRAIGHT, MadeOf
from regard.recording.backward.operation import Operation, plain
from regard.recording.backward.unseen import Unseen
from regard.recording.edits import Edit
from regard.recording.own_gradients import operation
from regard.recording.tokens.by_tensor import ByTensor
from regard.recording.tokens.contractions import CONVOLUTIONS, POOLS, PRODUCTS
from regard.recording.tokens.elementwise import ELEMENT_WISE, tensors_in
from regard.recording.tokens.movements import JOINS, MOVEMENTS, RESHAPES
from regard.recording.tokens.writes import SUMS_INTO, WRITES, spellings


@dataclass(frozen=True)
class RuleSet:
    """How gradients flow.

    Attributes:
        attention: "halves": dq, dk × ¼, dv × ½; "constant": dq = dk = 0; "warmer": as "halves", the softmax at temperature 2;
            "plain". norm: the divisor is a constant. activation: dx = dy · f(x)/x where f(0) = 0. product: each of two operands
            has half. gates: but one that an activation made is constant. gamma: γ of linear maps and convolutions; 0 is the
            plain gradient.
    """

    name: str
    attention: str = "halves"
    norm: bool = True
    activation: bool = True
    product: bool = True
    gates: bool = False
    gamma: float = 0.0


SILENT = """
    linear embedding cumsum interpolate upsample pad where copy type_as view_as_real view_as_complex meshgrid broadcast_tensors
    topk sort max min amax amin median nansum nanmean fold softmax softmin masked_select diff trace one_hot
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    embedding_bag fft_fft fft_ifft fft_rfft fft_irfft
    dropout1d dropout2d dropout3d detach requires_grad item tolist new_tensor retain_grad register_hook setitem
"""
MOVED = {plain(name)[0] for name in MOVEMENTS | RESHAPES}
"""Operations that give the same elements elsewhere."""
LINEAR = MOVED | JOINS | {*CONVOLUTIONS} | {*POOLS} | spellings(WRITES) | spellings(SUMS_INTO) | {*SILENT.split()}
"""Operations that add, move or choose: their plain gradient is the rule."""
SIDE_BY_SIDE = JOINS | spellings(WRITES) | {"setitem", "copy", "where", "pad"}
"""Operations that set tensors beside each other, or one in the place of a part of another."""
STRAIGHT_NAMES = STRAIGHT | {"nan_to_num", "detach", "requires_grad", "data"}
ADDED = {"addmm", "baddbmm", "addbmm", "addmv", "addr"}
"""Products that are added to their first operand."""
CHOOSE = {"maximum", "minimum", "fmax", "fmin"}
"""Of two tensors, one at each place."""


Kind = Callable[["Backward", Operation], Any]
"""What is done with an operation of some kind."""


class Backward:
    """Applies a rule set to the operations of one run.

    module: where the model is at work. pairs: whether a tensor is scores or weights of pairs of tokens (one that a softmax is
    taken of: True). plain: operations that kept their plain gradient, with the module.
    """

    def __init__(self, rules: RuleSet, module: Callable[[], str], pairs: Callable[[Tensor, bool], bool]) -> None:
        self.rules, self.module, self._pairs = rules, module, pairs
        self.known = MadeOf()
        self.constants = ByTensor[bool]()
        self.written = ByTensor[bool]()
        self.unseen = Unseen(LINEAR)
        self.unruled: dict[tuple[str, str], None] = {}

    @property
    def edits(self) -> list[Edit]:
        """What is changed call by call."""
        return [Correctable(Warmer(), depends=self.depends)] if self.rules.attention == "warmer" else []

    def depends(self, t: Tensor) -> bool:
        """Whether a tensor depends on the inputs, which are copies of leaves; what is made of parameters alone does not."""
        constant = t in self.constants and _whole(t) not in self.written
        return t.requires_grad and not t.is_leaf and not constant

    def pairs(self, t: Tensor, softmax: bool = False) -> bool:
        """Whether a tensor is weights of pairs of tokens, or scores of which a `softmax` is taken."""
        return self._pairs(t, softmax)

    @property
    def plain(self) -> list[tuple[str, str]]:
        """(operation, module) of what kept its plain gradient, lengths that divide nothing of their own among them."""
        return [*dict.fromkeys([*self.unruled, *self.known.open.values()])]

    def __call__(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run an operation, its gradient by the rules; what its operands were made of unseen is named."""
        self._look_behind(tensors_in(args) + tensors_in(kwargs.values()))
        out = self._by_rule(func, args, kwargs)
        self.unseen.know(args[0] if out is None and args else out)
        return out

    def _look_behind(self, tensors: Iterable[Tensor]) -> None:
        """What tensors were made of unseen has its plain gradient."""
        for t in tensors:
            for name in self.unseen.behind(t) if self.depends(t) else ():
                self.unruled[name, self.module()] = None

    def _by_rule(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if getattr(func, "__name__", "") in ("__get__", "__set__"):
            return self._of_property(func, args, kwargs)
        op = Operation.read(func, args, kwargs, self.depends)
        if not op.dependents or not torch.is_grad_enabled():
            return self._of_parameters(self.run(op))
        if (written := args[0] if op.name == "setitem" else op.into) is not None:
            self.written[_whole(written)] = True
        if written is None:
            return self._of_its_kind(op)
        whole = _whole(written)
        gate = None if whole is written else self.known.gates.of(whole)
        depended, number = whole is not written and whole.requires_grad, self.known.reduced.of(whole)
        out = self._of_its_kind(op)
        self.known.written_through(written, gate, depended)
        self.known.lost(number, whole)
        return out

    def _of_its_kind(self, op: Operation) -> Any:
        rule = _KINDS.get(op.name)
        if rule is None:
            return self._of_no_kind(op)
        return rule(self, op) if op.into is None else self._into(op, op.into, rule)

    def ended(self, output: Iterable[Tensor]) -> list[tuple[str, str]]:
        """`plain`, when the run is over and has given its output: nothing more is known of its tensors and asked of its watch,
        so that they may go."""
        self._look_behind(output)
        plain, self.known = self.plain, MadeOf()
        self.constants, self.written, self.unseen = ByTensor(), ByTensor(), Unseen(LINEAR)
        self.module, self._pairs = str, lambda _t, _softmax: False
        return plain

    def _of_parameters(self, out: Any) -> Any:
        """What an operation makes of parameters alone depends on no input."""
        for t in tensors_in([out]) if isinstance(out, Tensor | list | tuple) else ():
            if t.requires_grad and not t.is_leaf:
                self.constants[t] = True
        return out

    def _into(self, op: Operation, into: Tensor, rule: Kind) -> Tensor:
        """An operation that writes into its operand: apart from it, and then written."""
        if self.known.adds_another(op, into):
            origin = self.known.centred(op)
            self.run(op)
            self.known.origins.learn(into, origin)
            return into
        apart = op.apart()
        if apart is None:
            self.run(op)
            return into
        before = self.known.keep(into)
        made: Tensor = rule(self, apart.among({id(into): before}))
        into.copy_(made)
        self.known.pass_on(made, into)
        return into

    def _of_property(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """`weight.T` is a constant, too."""
        made = operation(func, args, dict(kwargs))
        op = Operation.read(func, args, kwargs, self.depends)
        if not op.dependents:
            return self._of_parameters(made)
        self.known.moved(op, made)
        return made

    def _of_no_kind(self, op: Operation) -> Any:
        gate, number = self.known.joined(op), self.known.put_over(op)
        out = operation(op.func, op.args, op.kwargs)
        if op.name in MOVED:
            self.known.moved(op, out)
        elif op.name in SIDE_BY_SIDE:
            made = op.args[0] if op.name == "setitem" else out
            self.known.gates.learn(made, gate)
            self.known.reduced.learn(made, number)
        elif op.name not in LINEAR:
            self.keeps_plain(op.name, out)
        return out

    def keeps_plain(self, name: str, out: Any) -> None:
        """An operation that no rule is for, where a gradient flows through it."""
        outs = [out] if isinstance(out, Tensor) else out if isinstance(out, list | tuple) else ()
        if any(isinstance(t, Tensor) and t.requires_grad for t in outs):
            self.unruled[name, self.module()] = None

    def run(self, op: Operation, new: Mapping[int, Any] | None = None) -> Any:
        """The operation, with other tensors in the place of some."""
        op = op.with_tensors(new) if new else op
        return operation(op.func, op.args, op.kwargs)

    def ruled(self, op: Operation, x: Tensor, at: Callable[[Tensor, Tensor], Tensor], **how: bool) -> Tensor:
        """The operation's own value, whose gradient at x is at(g, x)."""
        return instead(lambda t: self.run(op, {id(x): t}), at, x, **how)


def _whole(t: Tensor) -> Tensor:
    """What a tensor is a view of: all views of it are written into together."""
    return t if t._base is None else t._base


def attention(self: Backward, op: Operation) -> Any:
    """A fused kernel: q, k and v are given what part of their gradients is theirs (a changed softmax: attention.py)."""
    given = op.given("query key value attn_mask dropout_p is_causal")
    q, k, v, mask = (given.pop(n, None) for n in ("query", "key", "value", "attn_mask"))
    if self.rules.attention == "constant":
        q, k, mask = held(q), held(k), mask if mask is None else held(mask)
    elif self.rules.attention == "halves":
        q, k, v, mask = shared(q, k, v, mask, self.depends)
    return operation(op.func, (q, k, v), {"attn_mask": mask, **given})


def softmax(self: Backward, op: Operation) -> Any:
    """Plain, but for weights of pairs of tokens where the softmax's backward pass is that of a warmer one."""
    x = op.dependents[0]
    if self.rules.attention != "warmer" or not self.pairs(x, softmax=True):
        return self.run(op)
    dim = op.given("input dim").get("dim", -1)
    return self.ruled(op, x, lambda g, A: _warmer_gradient(g, A, -1 if dim is None else dim), by_value=True)


def _warmer_gradient(g: Tensor, A: Tensor, dim: int) -> Tensor:
    """A_T⊙(G − Σ A_T G), A_T = softmax(S/2), along one axis."""
    A, g = A.transpose(dim, -1), g.transpose(dim, -1)
    return softmax_gradient(warmer(A), g.to(A.dtype)).transpose(dim, -1)


def product(self: Backward, op: Operation) -> Any:
    """x ⊙ y: half to each; a constant times x is a straight line; x · f(x) is a function of x; x over its length is a norm."""
    if len(op.dependents) < 2:
        return element_wise(self, op)
    a, b = op.dependents[:2]
    for x, by in ((a, b), (b, a)):
        if self.known.divides(by, x, inverse=True):
            return divided(self, op, by)
        if self.known.is_total(by, x, inverse=True):
            return over_total(self, op, x, by)
    if self.known.function(a).of is self.known.function(b).of:
        return element_wise(self, op)
    return halves(self, op, a, b)


def divided(self: Backward, op: Operation, by: Tensor) -> Any:
    """x over a length that was made of it: the length is a constant."""
    self.known.normed(by)
    return self.run(op, {id(by): by.detach()} if self.rules.norm else None)


def halves(self: Backward, op: Operation, a: Tensor, b: Tensor) -> Any:
    """Half of the gradient to each of two; a gate is constant, where the rules say so, and so are weights of pairs."""
    if self.rules.gates:
        constant = [self.pairs(t) for t in (a, b)]
        if constant[0] == constant[1]:
            constant = [self.known.is_gate(t) for t in (a, b)]
        if constant[0] != constant[1]:
            gate = a if constant[0] else b
            return self.run(op, {id(gate): held(gate)})
        if self.known.is_partly_gate(a) or self.known.is_partly_gate(b):
            out = self.run(op)
            self.keeps_plain(op.name, out)
            return out
    out = self.run(op, {id(a): scaled(a, 0.5), id(b): scaled(b, 0.5)} if self.rules.product else None)
    if op.name == "mul":
        self.known.multiplied(a, b, out)
    return out


def contraction(self: Backward, op: Operation) -> Any:
    """A sum of products. Of two that depend on the inputs, as `product`; with constants, linear."""
    factors = [t for t in op.dependents if t is not _bias(op)]
    if len(factors) < 2:
        return linear(self, op) if len(op.dependents) < 2 else biased(self, op)
    if len(factors) > 2:
        self.keeps_plain(op.name, factors[0])
        return self.run(op)
    a, b = factors
    if a is b:  # x xᵀ written with one operand twice: the two places share what is theirs
        out = self.run(op, {id(a): scaled(a, 0.5)} if self.rules.product else None)
        self.known.products_of(a, out, (op.name, self.module()))
        return out
    return halves(self, op, a, b)


def biased(self: Backward, op: Operation) -> Any:
    """A linear map whose bias depends on the inputs as well: linear in both, and not what the γ rule is for."""
    out = self.run(op)
    if self.rules.gamma:
        self.keeps_plain(op.name, out)
    return out


def added_product(self: Backward, op: Operation) -> Any:
    """x + y ⊙ z."""
    given = op.given("input tensor1 tensor2")
    a, b = given["tensor1"], given["tensor2"]
    if not (op.depends(a) and op.depends(b)):
        return self.run(op)
    return halves(self, op, a, b)


def linear(self: Backward, op: Operation) -> Any:
    """Linear maps and convolutions: the plain gradient, or LRP's γ rule."""
    if len(op.dependents) > 1:
        return contraction(self, op)
    if not self.rules.gamma or op.dependents[0] is _bias(op):
        return self.run(op)
    found = _weighted(op)
    if found is None:
        out = self.run(op)
        self.keeps_plain(op.name, out)
        return out
    return favouring(found.run, found.x, found.weight, found.bias, self.rules.gamma)


class _Weighted(NamedTuple):
    """A linear map: of what, by which weights and bias, and how it is run with others."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    run: Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _bias(op: Operation) -> Any:
    """What is added to a product."""
    if op.name in ADDED:
        return op.operands[0]
    return op.given("input weight bias").get("bias") if op.name == "linear" or op.name.startswith("conv") else None


def _weighted(op: Operation) -> _Weighted | None:
    """The parts of a linear map of one tensor; None for one of which they cannot be told."""
    x, bias = op.dependents[0], _bias(op)
    factors = [
        t for t in tensors_in(op.args) + tensors_in(op.kwargs.values()) if t is not bias and t.is_floating_point()
    ]
    others = [t for t in factors if t is not x]
    if len(others) != 1 or len(factors) != 2:
        return None
    (weight,) = others

    def run(new: Tensor, by: Tensor, plus: Tensor | None) -> Tensor:
        added = {} if bias is None else {id(bias): torch.zeros_like(bias) if plus is None else plus}
        made = op.with_tensors({id(x): new, id(weight): by, **added})
        out: Tensor = made.func(*made.args, **made.kwargs)
        return out

    return _Weighted(x, weight, bias, run)


def quotient(self: Backward, op: Operation) -> Any:
    """x / y: x over its own length is a norm; over its own sum, a softmax by hand; over a constant, a straight line."""
    a, b = op.operands[:2]
    if not (op.depends(a) and op.depends(b)):
        return element_wise(self, op)
    if self.known.divides(b, a, inverse=False):
        return divided(self, op, b)
    if self.known.is_total(b, a, inverse=False):
        return over_total(self, op, a, b)
    if self.known.function(a).of is self.known.function(b).of:
        return element_wise(self, op)
    out = self.run(op)
    self.keeps_plain("div", out)
    return out


def over_total(self: Backward, op: Operation, a: Tensor, total: Tensor) -> Any:
    """x over its own sum (or times 1 over it), plain, and a gate if x is; exp(S) over its sum is a softmax written out."""
    S = self.known.current(self.known.function(a).exponent)
    if self.rules.attention != "warmer" or S is None or not self.pairs(a):
        out = self.run(op)
        if S is None and self.known.is_gate(a):
            self.known.gates.learn(out, True)
        return out
    dim = next((d for d in range(total.ndim) if total.shape[d] == 1 and a.shape[d] > 1), -1)
    value = self.run(op).detach()
    return instead(lambda _: value, lambda g, A: _warmer_gradient(g, A, dim), S, by_value=True)


def element_wise(self: Backward, op: Operation) -> Any:
    """Operations element by element. A function of one tensor with f(0) = 0 is taken whole, as the line through its value."""
    out = self.run(op)
    if not isinstance(out, Tensor) or not out.requires_grad:
        return out
    curved = _curved(op)
    made = self.known.function_made(op, out, curved)
    unknown = len(op.dependents) > 1 if made is None else self.rules.activation and made.at_zero is None
    if curved and (unknown or any(self.known.forgotten(x) for x in op.dependents)):
        self.keeps_plain(op.name, out)
    if self.rules.activation and made is not None and made.curved and _is_zero(made.at_zero):
        out = proportional(out, made.of)
    self.known.learn(op, out, made, curved)
    return out


def _curved(op: Operation) -> bool:
    """Whether an element-wise operation is more than a straight line in what depends on the inputs."""
    if op.name == "mul":
        return len(op.dependents) > 1
    if op.name in CHOOSE:
        return len(op.dependents) < 2
    if op.name == "div":
        return op.depends(op.operands[1])
    return op.name not in STRAIGHT_NAMES


def _is_zero(value: Any) -> bool:
    return bool((value == 0).all()) if isinstance(value, Tensor) else value == 0


def reduces(self: Backward, op: Operation) -> Any:
    """A mean or sum is linear; a length is of no interest where it divides what it was made of."""
    out = self.run(op)
    self.known.reduction(op, out, (op.name, self.module()))
    return out


def layer_norm(self: Backward, op: Operation) -> Any:
    """(x − mean) / std, std a constant."""
    g = op.given("input normalized_shape weight bias eps")
    dims, weight, eps = len(g["normalized_shape"]), g.get("weight"), g.get("eps", 1e-5)
    if op.name == "native_layer_norm":  # its mean and std are given back, too
        whole = replace(op, func=torch.layer_norm, name="layer_norm")
        return layer_norm(self, whole), *(t.detach() for t in self.run(op)[1:])
    return _norm(self, op, g["input"], lambda at, x: layer_norm_gradient(at, x, dims, weight, eps))


def rms_norm(self: Backward, op: Operation) -> Any:
    """x / rms, rms a constant."""
    g = op.given("input normalized_shape weight eps")
    dims, weight, eps = len(g["normalized_shape"]), g.get("weight"), g.get("eps")
    eps = torch.finfo(g["input"].dtype).eps if eps is None else eps
    return _norm(self, op, g["input"], lambda at, x: rms_norm_gradient(at, x, dims, weight, eps))


def group_norm(self: Backward, op: Operation) -> Any:
    """(x − mean) / std over groups of channels, std a constant."""
    g = op.given("input num_groups weight bias eps")
    groups, weight, eps = g["num_groups"], g.get("weight"), g.get("eps", 1e-5)
    return _norm(self, op, g["input"], lambda at, x: group_norm_gradient(at, x, groups, weight, eps))


def instance_norm(self: Backward, op: Operation) -> Any:
    """(x − mean) / std of each channel, std a constant; with running statistics it is linear."""
    g = op.given("input running_mean running_var weight bias use_input_stats momentum eps")
    if not g.get("use_input_stats", True):
        return self.run(op)
    channels, weight, eps = g["input"].shape[1], g.get("weight"), g.get("eps", 1e-5)
    return _norm(self, op, g["input"], lambda at, x: group_norm_gradient(at, x, channels, weight, eps))


def batch_norm(self: Backward, op: Operation) -> Any:
    """With running statistics it is linear."""
    out = self.run(op)
    g = op.given("input running_mean running_var weight bias training")
    if g.get("training") or g.get("running_mean") is None:
        self.keeps_plain(op.name, out)
    return out


def normalize(self: Backward, op: Operation) -> Any:
    """x over its length, the length a constant."""
    g = op.given("input p dim eps")
    p, dim, eps = float(g.get("p", 2.0)), g.get("dim", 1), g.get("eps", 1e-12)
    return _norm(self, op, g["input"], lambda at, x: length_gradient(at, x, p, dim, eps))


def _norm(self: Backward, op: Operation, x: Tensor, at: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """A fused norm of x; one whose scale depends on the inputs too keeps its plain gradient."""
    if len(op.dependents) != 1 or op.dependents[0] is not x or not self.rules.norm:
        out = self.run(op)
        if self.rules.norm:
            self.keeps_plain(op.name, out)
        return out
    return self.ruled(op, x, at)


def cosine(self: Backward, op: Operation) -> Any:
    """⟨x, y⟩ over both lengths, the lengths constants."""
    g = op.given("x1 x2 dim eps")
    value, dim, eps = self.run(op), g.get("dim", 1), g.get("eps", 1e-8)
    over = []
    for t in (g["x1"], g["x2"]):
        length = t.norm(dim=dim, keepdim=True).clamp(min=eps)
        over.append(t / (length.detach() if self.rules.norm else length))
    share = 0.5 if self.rules.product and len(op.dependents) > 1 else 1.0
    a, b = (scaled(t, share) for t in over)
    return in_stead_of(value, (a * b).sum(dim))


def glu(self: Backward, op: Operation) -> Any:
    """x₁ · sigmoid(x₂) of two halves of one tensor, as the product that it is."""
    if not self.rules.product:
        return self.run(op)
    x, dim = op.dependents[0], op.given("input dim").get("dim", -1)

    def at(g: Tensor, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim)
        gate = right.sigmoid()
        if self.rules.gates:
            return torch.cat([g * gate, torch.zeros_like(right)], dim)
        return torch.cat([g * gate, g * left * gate * (1 - gate)], dim) / 2

    return self.ruled(op, x, at)


_KINDS: dict[str, Kind] = {
    **dict.fromkeys({n for n in ELEMENT_WISE if not n.startswith("__")}, element_wise),
    **dict.fromkeys(REDUCES, reduces),
    **dict.fromkeys(PRODUCTS, contraction),
    **dict.fromkeys(("linear", *CONVOLUTIONS, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), linear),
    **dict.fromkeys(("grouped_mm", "_grouped_mm"), contraction),
    "scaled_dot_product_attention": attention,
    "softmax": softmax,
    "mul": product,
    "div": quotient,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "batch_norm": batch_norm,
    "normalize": normalize,
    "glu": glu,
    "addcmul": added_product,
    "cosine_similarity": cosine,
    **dict.fromkeys(("bilinear", "linalg_vecdot", "vecdot"), contraction),
    "native_layer_norm": layer_norm,
}
for _name in ("detach", "data", "requires_grad"):
    _KINDS.pop(_name, None)

__all__ = ["Backward", "RuleSet"]
