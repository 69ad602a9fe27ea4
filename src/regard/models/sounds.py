"""Raw sound of any kind to one channel at the rate that a model hears, and to the tensors that its feature extractor makes.

WAV files are read by the standard library (by SciPy where it knows more kinds); SciPy changes rates.
"""

from __future__ import annotations

import math
import os
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from regard.errors import InputError, ModelError
from regard.explanation.raw_inputs import Sound

Samples = Float[Tensor, " time"]
GIVE = "a path of a WAV file, an array, or (array, rate)"
STREAMS = ("input_features", "input_values")
CHANNELS = 8  # at most: an axis of a sound that is no longer than this is its channels
FRAME = 0.01  # seconds from one frame of a spectrogram to the next, where a feature extractor does not say


def hears(model: nn.Module, processor: Any) -> bool:
    """Whether a model reads sound, by its processor or by what Transformers calls its input."""
    return extractor_of(processor) is not None or getattr(model, "main_input_name", "") in STREAMS


def extractor_of(processor: Any) -> Any:
    """What turns sound into tensors in a processor, or the processor itself if it does; None where nothing does."""
    held = getattr(processor, "feature_extractor", None)
    return next((part for part in (held, processor) if isinstance(getattr(part, "sampling_rate", None), int)), None)


def read_sound(raw: Any, rate: int, number: int = 0) -> tuple[Samples, str]:
    """One raw sound as float samples of one channel at a rate, in -1 to 1, and a name for it.

    `raw` is the path of a WAV file, an array or tensor (time,), (time, channels) or (channels, time) at the model's own rate,
    (array, rate), or {"array": ..., "sampling_rate": ...}. Whole numbers are scaled by what their dtype holds; channels are
    averaged.

    Raises InputError for what is missing, empty, damaged, not finite or no sound, ModelError where SciPy is needed and missing.
    """
    name = f"sound {number}"
    if isinstance(raw, str | os.PathLike):
        values, own = _file(Path(raw))
        name = Path(raw).name
    elif isinstance(raw, Mapping) and {"array", "sampling_rate"} <= set(raw):
        values, own = raw["array"], raw["sampling_rate"]
    elif isinstance(raw, tuple) and len(raw) == 2:
        values, own = raw
    else:
        values, own = raw, rate
    if isinstance(own, bool) or not isinstance(own, int | np.integer) or own <= 0:
        raise InputError(f"the rate of {name} must be a whole number of samples a second, not {own!r}; give {GIVE}")
    return torch.from_numpy(_resampled(_one_channel(values, name), int(own), rate, name)), name


def _file(path: Path) -> tuple[NDArray[Any], int]:
    """A WAV file's samples (time, channels) and their rate."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; give a sound file")
        if not path.exists():
            raise InputError(f"no such sound: {path}")
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
        return _decoded(data, width).reshape(-1, channels), rate
    except (wave.Error, EOFError, ValueError) as e:
        return _by_scipy(path, str(e) or "it ends too early")
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror or e}") from e


def _decoded(data: bytes, width: int) -> NDArray[Any]:
    """Samples of 1, 2, 3 or 4 bytes; those of 3 are put into 4."""
    if width == 3:
        threes = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        return np.concatenate([np.zeros_like(threes[:, :1]), threes], 1).reshape(-1).view("<i4")
    return np.frombuffer(data, dtype={1: "u1", 2: "<i2", 4: "<i4"}[width])


def _by_scipy(path: Path, reason: str) -> tuple[NDArray[Any], int]:
    """WAV files of kinds that the standard library does not read, such as those of floats."""
    said = f"{path} is not a WAV file that can be read ({reason}); convert it, or give (array, rate)"
    try:
        from scipy.io import wavfile
    except ImportError:
        raise InputError(said) from None
    try:
        rate, values = wavfile.read(path)
    except Exception as e:  # it raises many kinds for damaged files
        raise InputError(said) from e
    return values, int(rate)


def _one_channel(raw: Any, name: str) -> NDArray[np.float32]:
    """Samples (time,) as floats. Raises InputError for what are none."""
    try:
        values = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else np.asarray(raw)
    except (ValueError, TypeError, RuntimeError) as e:
        raise InputError(f"{name} cannot be read as an array: {(str(e).splitlines() or [''])[0]}; give {GIVE}") from e
    if values.dtype.kind not in "iuf":
        raise InputError(f"{name} is a {type(raw).__name__}, which holds no numbers; give {GIVE}")
    shape = " x ".join(map(str, values.shape)) or "a single number"
    if values.size == 0 or values.ndim not in (1, 2) or (values.ndim == 2 and min(values.shape) > CHANNELS):
        raise InputError(
            f"{name} has shape {shape}; give samples (time,) or (time, channels), and several sounds as a list"
        )
    floats = _scaled(values)
    if floats.ndim == 2:
        floats = floats.mean(int(np.argmin(floats.shape)))
    if not np.isfinite(floats).all():
        raise InputError(f"{name} holds NaN or infinity")
    return floats.astype(np.float32)


def _scaled(values: NDArray[Any]) -> NDArray[np.float64]:
    """Whole numbers to -1..1; floats as they are."""
    floats = values.astype(np.float64)
    if values.dtype.kind == "f":
        return floats
    half = 2.0 ** (8 * values.dtype.itemsize - 1)
    return (floats - half if values.dtype.kind == "u" else floats) / half


def _resampled(samples: NDArray[np.float32], own: int, rate: int, name: str) -> NDArray[np.float32]:
    if own == rate:
        return samples
    try:
        from scipy.signal import resample_poly
    except ImportError:
        raise ModelError(
            f"{name} has {own} samples a second and the model hears {rate}: SciPy changes that, and is missing; "
            "pip install scipy, or resample it first"
        ) from None
    common = math.gcd(own, rate)
    made: NDArray[np.float32] = resample_poly(samples, rate // common, own // common).astype(np.float32)
    return made


# -- to tensors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """One sound as the model takes it, how it is drawn, and what to say of it."""

    inputs: dict[str, Tensor]
    sound: Sound
    notes: list[str]


def hear(extractor: Any, model: nn.Module, raw: Any, number: int, truncate: bool) -> Heard:
    """Read one sound and run the feature extractor. Raises InputError as `read_sound`, and for one that is too long."""
    rate = int(extractor.sampling_rate)
    samples, name = read_sound(raw, rate, number)
    limit, notes = longest(extractor), []
    if limit is not None and len(samples) / rate > limit + FRAME:
        said = f"{name} lasts {len(samples) / rate:.1f} s, and {type(model).__name__} hears {limit:g} s at a time"
        if not truncate:
            raise InputError(f"{said}; cut it, or pass truncate=True to hear its beginning only")
        samples = samples[: int(limit * rate)]
        notes.append(f"{said}: only its beginning was heard")
    try:
        made = extractor(samples.numpy(), sampling_rate=rate, return_tensors="pt")
    except (ValueError, TypeError, RuntimeError, IndexError, AssertionError) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise InputError(
            f"{type(extractor).__name__} cannot take {name} ({len(samples) / rate:.3g} s): {reason}"
        ) from e
    tensors = {k: v for k, v in made.items() if isinstance(v, Tensor)}
    main = main_of(tensors)
    if not main:
        raise ModelError(
            f"{type(extractor).__name__} makes none of {', '.join(STREAMS)}; give tensors to regard.explain"
        )
    sound = Sound(samples, rate, _window(extractor, tensors[main]), *_cells(model, rate), name)
    return Heard(tensors, sound, notes)


def main_of(inputs: Mapping[str, Tensor]) -> str:
    """The tensor that is the sound; "" where there is none."""
    return next((name for name in STREAMS if name in inputs), "")


def longest(extractor: Any) -> float | None:
    """How many seconds a feature extractor keeps of a sound; None where it keeps all."""
    samples = getattr(extractor, "n_samples", None)
    if isinstance(samples, int):
        return samples / int(extractor.sampling_rate)
    frames = getattr(extractor, "max_length", None)
    return frames * _frame(extractor) if isinstance(frames, int) and _is_spectral(extractor) else None


def _is_spectral(extractor: Any) -> bool:
    return hasattr(extractor, "num_mel_bins") or hasattr(extractor, "hop_length")


def _frame(extractor: Any) -> float:
    hop = getattr(extractor, "hop_length", None)
    return hop / int(extractor.sampling_rate) if isinstance(hop, int) and hop > 0 else FRAME


def _window(extractor: Any, made: Tensor) -> float:
    """How many seconds a tensor covers, silence that was added included."""
    if made.ndim == 2:
        return made.shape[1] / float(extractor.sampling_rate)
    bins = next((n for name in ("num_mel_bins", "feature_size") if (n := getattr(extractor, name, 0)) and n > 1), 1)
    time, pitch = (2, 1) if made.shape[1] == bins != made.shape[2] else (1, 2)
    together = max(1, made.shape[pitch] // bins)  # some lay two frames side by side
    return made.shape[time] * together * _frame(extractor)


def _cells(model: nn.Module, rate: int) -> tuple[float | None, int]:
    """Seconds from one token to the next, where the model's config says so, and how many bands of pitch tokens stand for."""
    config: Any = getattr(model, "config", None)
    said = [getattr(config, n, None) for n in ("patch_size", "num_mel_bins", "frequency_stride", "time_stride")]
    if all(isinstance(n, int) for n in said):
        patch, bins, across, along = (int(n or 0) for n in said)
        return along * FRAME, (bins - patch) // across + 1
    ratio = getattr(config, "inputs_to_logits_ratio", None)
    return (ratio / rate if isinstance(ratio, int) and ratio > 1 else None), 1


def stacked(parts: Sequence[Heard]) -> dict[str, Tensor]:
    """Sounds in one batch. Raises InputError where they differ in length: a model hears what would fill them up."""
    for key in parts[0].inputs:
        if len({p.inputs[key].shape[1:] for p in parts}) > 1:
            lengths = ", ".join(f"{len(p.sound.samples) / p.sound.rate:.3g} s" for p in parts)
            raise InputError(f"these sounds differ in length ({lengths}); give them one by one")
    return {key: torch.cat([p.inputs[key] for p in parts]) for key in parts[0].inputs}
