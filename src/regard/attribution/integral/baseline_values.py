"""From a `Baseline` to values: x0 of each input, in the model's own space; for ids, of their word embeddings."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn

from regard.baseline import Baseline
from regard.errors import Misuse, nearest
from regard.recording.inputs import back, first
from regard.recording.tokens.cells import lattice
from regard.recording.tokens.tags import STRIDE, stream_of

if TYPE_CHECKING:
    from regard.attribution.context import Context

Baselines = Baseline | Mapping[str, Baseline] | None
SPECIAL = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "pad_token_id", "decoder_start_token_id")


def label(baseline: Baselines) -> str:
    """Its name on the receipt."""
    if isinstance(baseline, Mapping):
        return "; ".join(f"{name}: {b.label}" for name, b in baseline.items())
    return (baseline or Baseline.zero()).label


def is_local(baseline: Baselines) -> bool:
    """Whether the baseline is zero at the site itself. Raises Misuse for another kind that is said to be local."""
    every = list(baseline.values()) if isinstance(baseline, Mapping) else [baseline or Baseline.zero()]
    wrong = [b.label for b in every if not b.propagated and b.kind != "zero"]
    if wrong:
        raise Misuse(f"only Baseline.zero() has a local form, zero at the site; not {wrong[0]}")
    return any(not b.propagated for b in every)


def local_streams(context: Context, baseline: Baselines) -> set[str] | None:
    """The streams that a local baseline names; None: all, prefix tokens included.

    Raises UnknownName for a stream that is no input, Misuse where others are named with a propagated baseline.
    """
    if not isinstance(baseline, Mapping):
        return None
    _known(context, baseline)
    if any(b.propagated for b in baseline.values()):
        raise Misuse("a local baseline of one stream and a propagated one of another cannot be mixed; give one kind")
    return {context.recording.aliases.get(name, name) for name in baseline} | set(baseline)


def reference(context: Context, baseline: Baselines) -> dict[str, Tensor]:
    """x0 at each entry of the inputs that the baseline names: entry -> a tensor of its shape.

    Raises UnknownName for a stream that is no input, Misuse for a baseline that does not fit, or is x itself (T = 0).
    """
    recording = context.recording
    inputs = [s.name for s in recording.streams if s.kind == "input"]
    chosen = dict(baseline) if isinstance(baseline, Mapping) else dict.fromkeys(inputs, baseline or Baseline.zero())
    _known(context, chosen)
    out = {}
    for name in recording.leaves:
        entry = stream_of(name)
        wanted = chosen.get(entry)
        if wanted is not None:
            of = _of_ids if name in recording.embedded else _of_floats
            out[name] = back(of(context, name, samples_first(context, name), wanted), recording.axis(name))
    new = {k: first(v, recording.axis(k)) for k, v in out.items()}
    _differs({k: samples_first(context, k) for k in out}, new, recording.batch)
    return out


def samples_first(context: Context, name: str) -> Tensor:
    """What enters under a name, (batch, ...)."""
    return first(context.recording.leaves[name].detach(), context.recording.axis(name))


def _known(context: Context, names: Iterable[str]) -> None:
    """UnknownName for a stream that is no input."""
    recording = context.recording
    inputs = [s.name for s in recording.streams if s.kind == "input"]
    for name in names:
        if name not in {stream_of(k) for k in recording.leaves}:
            raise nearest(name, [*inputs, *recording.aliases], "stream of the baseline")


def _differs(x: Mapping[str, Tensor], x0: Mapping[str, Tensor], batch: int) -> None:
    """Misuse where a sample is its own baseline."""
    for sample in range(batch):
        if all(torch.equal(x[k][sample], x0[k][sample]) for k in x if sample < len(x[k])):
            raise Misuse(
                f"the baseline of sample {sample} equals its input, so there is nothing to attribute (T = 0); "
                "choose another baseline"
            )


# -- floats -----------------------------------------------------------------------------------------------------------


def zero_of(x: Tensor) -> Tensor:
    """Zero; in a stack of pictures (sample, picture, channel, row, column) one value of each is next to zero.

    Models that read stacks (Idefics, SmolVLM) take a picture of nothing but zeros for padding and leave it out, so that what
    their text says of it has no picture any more.
    """
    out = torch.zeros_like(x)
    if x.ndim == 5 and x.is_floating_point():
        shown = x.detach().flatten(2).any(-1)
        out[:, :, 0, 0, 0] = torch.where(shown, torch.finfo(x.dtype).tiny, 0.0).to(x.dtype)
    return out


def _of_floats(context: Context, name: str, x: Tensor, b: Baseline) -> Tensor:
    if b.kind == "zero":
        return zero_of(x)
    if b.kind == "given":
        return _given(name, x, b.value)
    if b.kind == "token":
        raise Misuse(
            f"{b.label} is a baseline of token ids, but {name!r} holds features; use Baseline.zero() or .mean()"
        )
    if x.ndim > 3:
        return _of_pictures(context, name, x, b)
    if b.kind == "mean":
        return _of_shown(context, name, x, lambda shown: shown.mean(0, keepdim=True).expand_as(shown))
    if b.kind == "noise":
        return _of_shown(context, name, x, lambda shown: _noise(shown, b.value))
    raise Misuse(f"baseline {b.label!r} is for pictures, but {name!r} has shape {tuple(x.shape)}; use Baseline.zero()")


def _of_pictures(context: Context, name: str, x: Tensor, b: Baseline) -> Tensor:
    """Pictures, or stacks of them; in a stack those of nothing but zeros are padding, which stays and does not count."""
    if b.kind == "noise":
        return _padding_kept(x, _of_shown(context, name, x, lambda shown: _noise(shown, b.value)), 2)
    axes = _picture_axes(context, name, x)
    if b.kind == "blur":
        return blurred(x, b.value, axes[-2:])
    channel = _channel_axis(name, x, axes)
    made = _painted(context, x, b, channel) if b.kind != "mean" else _mean(x, axes, channel)
    return _padding_kept(x, made, channel)


def _mean(x: Tensor, axes: tuple[int, ...], channel: int | None) -> Tensor:
    """The mean along the axes, of a stack over the pictures that are no padding."""
    mean = x.mean(axes, keepdim=True)
    if (hidden := _hidden(x, channel)) is not None and 1 in axes:
        mean = mean / (~hidden).to(x).mean(1).clamp(min=1 / x.shape[1]).view(-1, 1, 1, 1, 1)
    return mean.expand_as(x)


def _hidden(x: Tensor, channel: int | None) -> Bool[Tensor, "batch picture"] | None:
    """The pictures of a stack (batch, picture, channel, row, column) that are nothing but zeros."""
    return ~x.flatten(2).any(-1) if x.ndim == 5 and channel == 2 else None


def _padding_kept(x: Tensor, made: Tensor, channel: int | None) -> Tensor:
    hidden = _hidden(x, channel)
    return made if hidden is None else torch.where(hidden[..., None, None, None], x, made)


def _channel_axis(name: str, x: Tensor, axes: tuple[int, ...]) -> int | None:
    """The axis of (batch, ...) that is neither rows, columns nor pictures of a stack; None where all are."""
    left = [a for a in range(1, x.ndim) if a not in axes]
    longer = [a for a in left if x.shape[a] > 1]
    if len(longer) > 1:
        raise Misuse(
            f"it is not clear which axis of {name!r} {tuple(x.shape)} holds the channels; give the baseline "
            "as a tensor, Baseline.of(x0)"
        )
    found = longer or left
    return found[-1] if found else None


def _picture_axes(context: Context, name: str, x: Tensor) -> tuple[int, ...]:
    """The axes of (batch, ...) along which a picture's tokens stand: frames, rows and columns, in this order.

    All after the channels, unless its patches tell; of a stack only they can. Raises Misuse where they do not.
    """
    recording, entry = context.recording, stream_of(name)
    stream = recording.stream(recording.aliases.get(entry, entry))
    found = None
    if stream.elements is not None and stream.name == entry and not stream.packed:
        elements, ids = stream.elements, recording.placed.get(name)
        if ids is not None:
            places = (first(ids, recording.axis(name))[0].flatten() % STRIDE).argsort()
            elements = places[elements - 1].sort().values + 1
        found = lattice(elements, x.shape[1:])
    if found is not None:
        return tuple(a + 1 for a in found[0])
    if x.ndim > 4:
        raise Misuse(
            f"it is not clear which axes of {name!r} {tuple(x.shape)} are rows and columns; give the baseline as a tensor, "
            "Baseline.of(x0)"
        )
    return tuple(range(2, x.ndim))


def _of_shown(context: Context, name: str, x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Sample by sample, made of its tokens that are not padding; padding is left as it is and does not count."""
    hidden, out = padding_of(context, name), x.clone()
    for i, sample in enumerate(x):
        shown = slice(None) if hidden is None else ~hidden[i].to(x.device)
        out[i, shown] = of(sample[shown])
    return out


def padding_of(context: Context, entry: str) -> Bool[Tensor, "batch token"] | None:
    """Padding of an input of tokens, of a sample that is all padding none; None for an input of no padding, or no tokens."""
    recording = context.recording
    name = stream_of(entry)
    hidden, x = recording.padded.get(recording.aliases.get(name, name)), samples_first(context, entry)
    if hidden is None or hidden.shape != x.shape[:2]:
        return None
    hidden = (hidden & ~hidden.all(1, keepdim=True)).cpu()
    return hidden if bool(hidden.any()) else None


def _given(name: str, x: Tensor, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.shape not in (x.shape, x.shape[1:], (1, *x.shape[1:])):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise Misuse(f"the baseline of {name!r} must have the shape {tuple(x.shape)}, or one sample's; it has {found}")
    return value.detach().to(x).expand_as(x)


def _noise(x: Tensor, seed: int) -> Tensor:
    """Uniform between the sample's own extremes; drawn from the seed and the sample; other samples do not affect it."""
    code = zlib.crc32(x.detach().float().cpu().contiguous().numpy().tobytes())
    u = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed ^ code), dtype=torch.float32).to(x)
    return x.min() + u * (x.max() - x.min())


def blurred(x: Tensor, sigma: float, axes: Sequence[int] = (2, 3)) -> Tensor:
    """A Gaussian blur of pictures along their rows and columns, edges continued."""
    if not sigma > 0:
        raise Misuse(f"the sigma of a blur must be positive, not {sigma}")
    moved = x.movedim(tuple(axes), (-2, -1))
    flat = moved.flatten(0, -3)[:, None]
    for axis in (2, 3):
        reach = min(int(3 * sigma + 0.5), flat.shape[axis] - 1)
        offsets = torch.arange(-reach, reach + 1, device=x.device, dtype=torch.float32)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).to(x.dtype)
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        widths = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        flat = F.conv2d(F.pad(flat, widths, mode="replicate"), kernel.view(shape))
    return flat.view(moved.shape).movedim((-2, -1), tuple(axes))


def _painted(context: Context, x: Tensor, b: Baseline, channel: int | None) -> Tensor:
    """Black or white, by the normalisation of the pictures' processor, or as the user says it."""
    mean, std = b.value
    mean, std = (context.reading.mean if mean is None else mean, context.reading.std if std is None else std)
    if mean is None or std is None:
        raise Misuse(
            f"what counts as {b.kind} depends on the normalisation: use Baseline.{b.kind}(mean=..., std=...), or a reader"
        )
    of = [torch.as_tensor(v, dtype=torch.float32, device=x.device).flatten() for v in (mean, std)]
    count = 1 if channel is None else x.shape[channel]
    if any(len(v) not in (1, count) for v in of):
        raise Misuse(f"mean and std must be one value, or one for each of {count} channels")
    colour = (torch.tensor(0.0 if b.kind == "black" else 1.0) - of[0]) / of[1]
    return colour.to(x).view([-1 if a == (channel or 0) else 1 for a in range(x.ndim)]).expand_as(x).clone()


# -- ids --------------------------------------------------------------------------------------------------------------


def _of_ids(context: Context, name: str, x: Tensor, b: Baseline) -> Tensor:
    """Word embeddings with those of content tokens exchanged."""
    new = _embedding(context, name, x, b)
    if context.reading.special.get(stream_of(name)) is None:
        context.notes.append(
            f"special tokens of {name!r}, which the baseline leaves as they are, were found from the model's config alone; "
            "a reader (regard.load) knows them all"
        )
    content = content_tokens(context, stream_of(name)).to(x.device)
    if content.shape != x.shape[:2]:
        raise Misuse(f"the tokens of {name!r} cannot be told apart here; give a baseline for another stream")
    return torch.where(content[..., None], new, x)


def _embedding(context: Context, name: str, x: Tensor, b: Baseline) -> Tensor:
    if b.kind == "zero":
        return torch.zeros_like(x)
    if b.kind == "token":
        return _looked_up(context, name, torch.full(x.shape[:2], b.value))
    if b.kind == "given" and isinstance(b.value, Tensor) and not b.value.is_floating_point():
        ids = b.value if b.value.ndim > 1 else b.value[None]
        if ids.shape[1] != x.shape[1] or len(ids) not in (1, len(x)):
            raise Misuse(
                f"the baseline of {name!r} must hold {x.shape[1]} ids per sample; it has shape {tuple(b.value.shape)}"
            )
        return _looked_up(context, name, ids.expand(x.shape[:2]))
    if b.kind == "given":
        return _given(name, x, b.value)
    raise Misuse(
        f"baseline {b.label!r} is for pictures; for the ids of {name!r} use zero, mask_token, pad_token or ids"
    )


def _looked_up(context: Context, name: str, ids: Tensor) -> Tensor:
    """The model's own word embeddings of other ids, read off a run on them."""
    from regard.recording.run import run

    stream, given = stream_of(name), context.recording.given
    old = given.first(stream)
    new = torch.where(content_tokens(context, stream).to(old.device), ids.to(old), old)
    with torch.no_grad():
        try:
            found = run(context.recording.model, given.replaced({stream: back(new, given.axis(stream))})).leaves[name]
        except (IndexError, RuntimeError) as e:
            raise Misuse(f"the baseline's ids cannot be embedded by the model: {str(e).splitlines()[0]}") from e
    return first(found.detach(), context.recording.axis(name))


def content_tokens(context: Context, stream: str) -> Bool[Tensor, "batch token"]:
    """Tokens that carry content: no special token, no padding, not the position that is read."""
    recording = context.recording
    at = recording.stream(stream)
    special = context.reading.special.get(stream)
    ids = recording.given.first(stream)
    found = special_tokens(recording.model, ids) if special is None else special.cpu()
    read = context.r[: len(found), at.rows] > 0
    read = read & (read.sum(1, keepdim=True) == 1)  # a mean over all tokens reads no position of its own
    return ~(found | recording.padded[stream][: len(found)] | read)


def special_tokens(model: nn.Module, ids: Tensor) -> Tensor:
    """Special tokens by the ids that the model's config names."""
    config: Any = getattr(model, "config", None)
    configs = [config, config.get_text_config()] if hasattr(config, "get_text_config") else [config]
    named = [getattr(c, key, None) for c in configs for key in SPECIAL]
    flat = {i for v in named for i in (v if isinstance(v, list | tuple) else [v]) if isinstance(i, int)}
    return torch.isin(ids.cpu(), torch.tensor(sorted(flat), dtype=ids.dtype)) if flat else torch.zeros(ids.shape).bool()
