"""Methods that need no attention map run on any differentiable model; the others refuse, and name those that need none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard import Baseline, Site, Target
from regard.errors import Misuse, ModelError, NoAttention, RegardError, TrailLost
from support.tiny import ids, noise, strong

FREE = [m.name for m in regard.methods() if not (m.only_of or m.follows_maps(None))]
BOUND = [m.name for m in regard.methods() if m.follows_maps(None) and not m.only_of]
D = 8


# -- models: no softmax of queries and keys that could be seen ---------------------------------------------------------


class LinearAttention(nn.Module):
    """φ(Q)(φ(K)ᵀV), as in a from-scratch course: causal sums are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Linear(6, D)
        self.q, self.k, self.v, self.out = (nn.Linear(D, D) for _ in range(4))
        self.head = nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.emb(x)
        q, k, v = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1, self.v(x)
        x = x + self.out(q @ (k.mT @ v) / (q @ k.sum(1)[..., None]))
        return self.head(x.mean(1))


class Residual(nn.Module):
    """PreNorm residual around anything, lucidrains-like."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn, self.norm = fn, nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x)) + x


def feed(n: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n))


class Patches(nn.Module):
    """b c (h p) (w q) -> b (h w) (p q c)."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, 16 * c)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Turned(nn.Module):
    """Something along the other axis."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x.mT).mT


def mixer() -> nn.Module:
    """A block mixes its four tokens, then its channels."""
    blocks = [nn.Sequential(Residual(Turned(feed(4))), Residual(feed(D))) for _ in range(3)]
    return nn.Sequential(Patches(), nn.Linear(48, D), *blocks, nn.LayerNorm(D), Mean(), nn.Linear(D, 3))


class FourierBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.fft.fft(torch.fft.fft(x, dim=-1), dim=1).real
        return self.dense((x + mixed).tanh()) + x


class Fourier(nn.Module):
    """FNet: tokens are mixed by a Fourier transform."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, D)
        self.layers = nn.ModuleList(FourierBlock() for _ in range(3))
        self.head = nn.Linear(D, 3)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        x = self.words(input_ids)
        for layer in self.layers:
            x = layer(x)
        return {"logits": self.head(x[:, 0])}


class Recurrent(nn.Module):
    """A GRU over words, the last state read."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.gru, self.head = nn.Embedding(50, D), nn.GRU(D, D, batch_first=True), nn.Linear(D, 3)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.gru(self.words(input_ids))[0][:, -1])}


class Kernel(torch.autograd.Function):
    """Attention in a kernel that no one can look into: it runs in numpy."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = q.numpy() @ np.swapaxes(k.numpy(), 1, 2)
        a = np.exp(s - s.max(-1, keepdims=True))
        A = torch.from_numpy(a / a.sum(-1, keepdims=True))
        ctx.save_for_backward(q, k, v, A)
        return torch.from_numpy(A.numpy() @ v.numpy())

    @staticmethod
    def backward(ctx: Any, dO: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, A = ctx.saved_tensors
        G = dO @ v.mT
        dS = A * (G - (A * G).sum(-1, keepdim=True))
        return dS @ k, dS.mT @ q, A.mT @ dO


class Opaque(nn.Module):
    """Blocks whose attention is a kernel of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 18) for _ in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + Kernel.apply(*block(x).chunk(3, -1))
        return self.head(x[:, 0])


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


class Bottleneck(nn.Module):
    """A block of a residual network."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU(), nn.Conv2d(o, o, 3, 1, 1))
        self.down = nn.Conv2d(i, o, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.down(x))


class ResNet(nn.Module):
    """Stages in lists, as in torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 7, 2, 3)
        self.layer1 = nn.Sequential(Bottleneck(6, 6, 1), Bottleneck(6, 6, 1))
        self.layer2 = nn.Sequential(Bottleneck(6, 8, 2), Bottleneck(8, 8, 1))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(F.relu(self.stem(x)))).mean((2, 3)))


def table() -> nn.Module:
    """Plain numbers (batch, feature)."""
    return nn.Sequential(nn.Linear(6, D), nn.Tanh(), nn.Linear(D, 3))


def flat() -> nn.Module:
    """A picture as one row of numbers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(192, D), nn.Tanh(), nn.Linear(D, 3))


def sound() -> nn.Module:
    """A wave (batch, 1, sample) through windows that overlap."""
    windows = [nn.Conv1d(1, 4, 5, 2), nn.ReLU(), nn.Conv1d(4, 4, 3)]
    return nn.Sequential(*windows, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))


def volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], int, tuple[int, ...] | None]] = {
    "linear attention": (LinearAttention, lambda: noise(2, 5, 6), 5, None),
    "mixer": (mixer, lambda: noise(2, 3, 8, 8), 4, (2, 2)),
    "fourier": (Fourier, lambda: {"input_ids": ids(2, 5)}, 5, None),
    "recurrent": (Recurrent, lambda: {"input_ids": ids(2, 5)}, 5, None),
    "opaque kernel": (Opaque, lambda: noise(2, 5, 6), 5, None),
    "convolutions": (convolutions, lambda: noise(2, 3, 8, 8), 64, (8, 8)),
    "residual network": (ResNet, lambda: noise(2, 3, 16, 16), 256, (16, 16)),
    "plain numbers": (table, lambda: noise(2, 6), 6, None),
    "flat picture": (flat, lambda: noise(2, 3, 8, 8), 64, (8, 8)),
    "sound": (sound, lambda: noise(2, 1, 24), 24, None),
    "volume": (volume, lambda: noise(2, 1, 4, 4, 4), 64, (4, 4, 4)),
}


def case(name: str) -> tuple[nn.Module, Any, str, int, tuple[int, ...] | None]:
    make, inputs, count, grid = MODELS[name]
    return strong(make()), inputs(), "input_ids" if isinstance(inputs(), dict) else "input", count, grid


def logits(model: nn.Module, x: Any) -> Tensor:
    out = model(**x) if isinstance(x, dict) else model(x)
    return out["logits"] if isinstance(out, dict) else out


def by_hand(model: nn.Module, x: Any, at: Callable[[Tensor], Tensor] = lambda e: e) -> tuple[Tensor, Tensor]:
    """The input (word embeddings of ids) and the gradient of logit 1 there, moved by `at`: no library in between."""
    entered: list[Tensor] = []

    def enter(_: Any, __: Any, out: Tensor) -> Tensor:
        entered.append(at(out.detach()).requires_grad_())
        return entered[0]

    if isinstance(x, dict):
        handle = model.words.register_forward_hook(enter)
        y = logits(model, x)
        handle.remove()
    else:
        entered.append(at(x).requires_grad_())
        y = logits(model, entered[0])
    return entered[0].detach(), torch.autograd.grad(y[:, 1].sum(), entered[0])[0]


def per_token(t: Tensor, count: int, grid: tuple[int, ...] | None) -> Tensor:
    """Sums over the elements of each token, cut by loops."""
    if t.ndim == 2:
        return t
    if grid is not None and len(grid) == 2:
        h, w = t.shape[2] // grid[0], t.shape[3] // grid[1]
        cells = [
            t[:, :, r * h : (r + 1) * h, c * w : (c + 1) * w].sum((1, 2, 3))
            for r in range(grid[0])
            for c in range(grid[1])
        ]
        return torch.stack(cells, 1)
    return t.sum(2) if t.shape[1] == count else t.flatten(2).sum(1)


def close(a: Tensor, b: Tensor) -> None:
    assert float(b.abs().max()) > 0
    assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


# -- they run, and are right -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_input_x_gradient_is_that_of_the_plain_model(name: str) -> None:
    model, inputs, stream, count, grid = case(name)
    exp = regard.explain(model, inputs, 1, "input_x_gradient")
    x, g = by_hand(model, inputs)
    close(exp.scores[stream], per_token(x * g, count, grid))
    assert exp.grid.get(stream) == grid
    assert exp.receipt.faithful == 0


@pytest.mark.parametrize("name", MODELS)
def test_integrated_gradients_are_a_sum_over_plain_runs(name: str) -> None:
    model, inputs, stream, count, grid = case(name)
    baseline = None if isinstance(inputs, Tensor) else Baseline.of(torch.full_like(inputs["input_ids"], 3))
    exp = regard.explain(model, inputs, 1, "integrated_gradients", baseline=baseline, steps=5)
    nodes, weights = np.polynomial.legendre.leggauss(5)
    x, _ = by_hand(model, inputs)
    x0 = torch.zeros_like(x)
    if isinstance(inputs, dict):
        x0 = model.words(torch.full_like(inputs["input_ids"], 3)).detach()
        if (
            name == "fourier"
        ):  # the position that is read; of the recurrent model it is not known, and the receipt says so
            x0[:, 0] = x[:, 0]
    total = torch.zeros_like(x)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        total += weight * by_hand(model, inputs, lambda e, s=node: x0 + s * (x - x0))[1]
    close(exp.scores[stream], per_token((x - x0) * total, count, grid))


@pytest.mark.parametrize("name", MODELS)
def test_every_one_of_them_runs_and_a_batch_is_its_samples(name: str) -> None:
    model, inputs, *_ = case(name)
    one = {k: v[1:] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[1:]
    whole, alone = (regard.explain(model, x, 1, FREE, steps=3, samples=2) for x in (inputs, one))
    for exp, single in zip(whole, alone, strict=True):
        for stream, scores in exp.scores.items():
            assert bool(torch.isfinite(scores).all())
            assert float((scores[1:] - single.scores[stream]).abs().max()) <= 1e-5 * max(1.0, float(scores.abs().max()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_grad_cam_of_convolutions_is_the_classical_one() -> None:
    """At the last layer that has cells, on its own grid."""
    model, x, *_ = case("convolutions")
    exp = regard.explain(model, x, 1, "grad_cam", site=Site.block(4))
    features = model[:5](x).detach().requires_grad_()
    (g,) = torch.autograd.grad(model[5:](features)[:, 1].sum(), features)
    cam = (g.mean((2, 3), keepdim=True) * features.detach()).sum(1).clamp(min=0)
    close(exp.image_map(), cam)
    assert exp.grid["input"] == (4, 4)
    for name, grid in (("convolutions", (4, 4)), ("residual network", (4, 4)), ("mixer", (2, 2))):
        model, x, *_ = case(name)
        assert regard.explain(model, x, 1, "grad_cam").grid["input"] == grid


@pytest.mark.parametrize("name", ["mixer", "residual network", "fourier"])
def test_T_is_the_same_at_every_block(name: str) -> None:
    model, inputs, *_ = case(name)
    zero = regard.explain(model, inputs, 1, "integrated_gradients", steps=1).receipt
    for site in (Site.embeddings(), Site.block(0), Site.block(-1)):
        receipt = regard.explain(model, inputs, 1, "revised_ig", site=site, steps=1).receipt
        assert receipt.complete
        assert torch.allclose(receipt.attribution_target, zero.attribution_target, atol=1e-5)


def test_a_list_of_maps_inside_of_blocks_is_no_frontier() -> None:
    """Its elements give back queries, keys and values, and the residual stream goes round them."""
    model, x, *_ = case("opaque kernel")
    with pytest.raises(Misuse, match=r"block\[0\] is not a frontier of this model"):
        regard.explain(model, x, 1, "revised_ig", site=Site.block(0))
    default, named = (regard.explain(model, x, 1, "revised_ig", site=site) for site in (None, Site.input()))
    assert (
        default.receipt.site == "embeddings"
    )  # past the kernel no rows are known; the first block is given the input itself
    close(default.scores["input"], named.scores["input"])
    assert regard.explain(model, x, 1, "grad_cam").receipt.site == "input"


def test_states_known_by_their_place_alone_are_said_to_be() -> None:
    model, x, *_ = case("mixer")
    at_block = regard.explain(model, x, 1, "revised_ig", site=Site.block(0), steps=3)
    assert any("by their place alone" in n for n in at_block.receipt.notes)
    assert not any("place" in n for n in regard.explain(model, x, 1, "integrated_gradients", steps=3).receipt.notes)


def test_a_text_keeps_the_position_that_is_read() -> None:
    """Found after the last block where there is no attention to tell it."""
    model, inputs, *_ = case("fourier")
    exp = regard.explain(model, inputs, 1, "integrated_gradients", steps=3)
    assert exp.receipt.readout == "input_ids[0], found from the gradient"
    assert float(exp.scores["input_ids"][:, 0].abs().max()) == 0
    model, inputs, *_ = case("recurrent")
    assert "not known" in regard.explain(model, inputs, 1, "integrated_gradients", steps=3).receipt.readout


# -- the families of the library ----------------------------------------------------------------------------------------


SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}
LLM = SMALL | {"intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
SCAN = {"mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 4}
KEYS = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
KINDS = {"layer_types": ["linear_attention", "full_attention"]}
HYBRIDS: dict[str, dict[str, Any]] = {
    "Qwen3Next": LLM | KEYS | EXPERTS | KINDS | {"head_dim": 16, "shared_expert_intermediate_size": 16},
    "Mamba": SMALL | {"state_size": 4},
    "FalconH1": LLM | SCAN | {"mamba_d_ssm": 32, "mamba_n_heads": 4},
    "Bamba": LLM | SCAN | {"mamba_n_heads": 8, "mamba_expand": 2, "attn_layer_indices": [1]},
    "MiniMax": LLM | KINDS | {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "block_size": 4},
    "Mamba2": SMALL | {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
}
QUICK = ("Qwen3Next", "Mamba")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in HYBRIDS])
def test_hybrids_with_linear_attention(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, f"{name}ForCausalLM"):
        pytest.skip(f"no {name} in this version of transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**HYBRIDS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    inputs, target = {"input_ids": ids(2, 6)}, Target.next_token(7)
    found = regard.explain(model, inputs, target, ["input_x_gradient", "revised_ig", "odam"], steps=2)
    words = model.get_input_embeddings()
    e = words(inputs["input_ids"]).detach().requires_grad_()
    (g,) = torch.autograd.grad(model(inputs_embeds=e).logits[:, -1, 7].sum(), e)
    close({x.method: x for x in found}["input_x_gradient"].scores["input_ids"], (e.detach() * g).sum(-1))
    with pytest.raises(
        RegardError, match=r"method 'gae' needs attention maps: .*; methods that need none: gradient, input_x_g"
    ):
        regard.explain(model, inputs, target)
    with pytest.raises(Misuse, match=r"call 0 .* has no map: its weights come from no softmax|numbered from 0"):
        regard.explain(model, inputs, target, streams={"tokens": 0})


# -- those that need maps refuse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", BOUND)
def test_methods_that_need_maps_refuse_by_name(method: str) -> None:
    model, inputs, *_ = case("fourier")
    with pytest.raises(
        NoAttention, match=rf"method '{method}' needs attention maps: .*; methods that need none: .*integrated_gr"
    ):
        regard.explain(model, inputs, 1, method)


def test_one_that_needs_maps_among_others_is_named() -> None:
    model, inputs, *_ = case("linear attention")
    with pytest.raises(NoAttention, match="method 'rollout' needs"):
        regard.explain(model, inputs, 1, ["input_x_gradient", "rollout"])


def test_a_site_of_attention_needs_attention() -> None:
    model, inputs, *_ = case("mixer")
    with pytest.raises(NoAttention, match="method 'integrated_gradients' needs attention maps"):
        regard.explain(model, inputs, 1, "integrated_gradients", site=Site.attention(0))


class LostTrail(nn.Module):
    """Attention whose tokens nobody can follow, after a running sum."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.qkv, self.head = nn.Linear(6, D), nn.Linear(D, 3 * D), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.emb(x).sort(1).values).chunk(3, -1)
        return self.head(((q @ k.mT).softmax(-1) @ v)[:, 0])


def test_a_lost_trail_is_none_of_their_business() -> None:
    model, x = strong(LostTrail()), noise(2, 5, 6)
    with pytest.raises(
        TrailLost, match=r"method 'gae' needs attention maps: .* lost at `sort`.*; methods that need none"
    ):
        regard.explain(model, x, 1)
    exp = regard.explain(model, x, 1, "input_x_gradient")
    at, g = by_hand(model, x)
    close(exp.scores["input"], (at * g).sum(2))


class Cut(nn.Module):
    """A frozen backbone under no_grad, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(6, D, batch_first=True), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = self.body(x)[0][:, -1]
        return self.head(z)


BY_RUNS = ("occlusion", "lime", "shap_kernel")


@pytest.mark.parametrize("method", BY_RUNS)
def test_runs_alone_need_no_gradient(method: str) -> None:
    model, x = strong(Cut()), noise(2, 5, 6)
    exp = regard.explain(model, x, 1, method)
    assert exp.receipt.baseline == "zero"
    with torch.no_grad():
        whole, none = model(x)[:, 1], model(torch.zeros_like(x))[:, 1]
        drops = torch.stack([whole - model(x * (torch.arange(5) != t)[:, None])[:, 1] for t in range(5)], 1)
    torch.testing.assert_close(exp.receipt.attribution_target, whole - none, rtol=0, atol=1e-6)
    if method == "occlusion":
        torch.testing.assert_close(exp.scores["input"], drops, rtol=0, atol=1e-6)
    if method == "shap_kernel":
        torch.testing.assert_close(exp.scores["input"].sum(1), whole - none, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", [m for m in FREE if m not in ("random", *BY_RUNS)])
def test_a_gradient_that_cannot_come_through_is_no_map_of_zeros(method: str) -> None:
    with pytest.raises(ModelError, match="the model's own forward cuts it off"):
        regard.explain(strong(Cut()), noise(2, 5, 6), 1, method)


# -- Transformers go the same way ---------------------------------------------------------------------------------------


def test_a_transformer_is_watched_only_until_its_inputs_are_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run for a gradient at pixels, without a hook on any module; the same map as beside a method that watches all."""
    from support import families

    case = families.CASES["vit"]()
    beside = regard.explain(case.model, case.inputs, 1, ["input_x_gradient", "gae"])[0]
    runs, hooks = [], []
    forward = type(case.model).forward
    monkeypatch.setattr(type(case.model), "forward", lambda *a, **k: (runs.append(1), forward(*a, **k))[1])
    monkeypatch.setattr(nn.Module, "register_forward_pre_hook", lambda *a, **k: hooks.append(1))
    alone = regard.explain(case.model, case.inputs, 1, "input_x_gradient")
    assert (len(runs), len(hooks)) == (1, 0)
    assert alone.grid == beside.grid
    for stream, scores in beside.scores.items():
        assert torch.equal(alone.scores[stream], scores)
