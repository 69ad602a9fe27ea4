"""A sound as a picture that a map can be laid over: its waveform, or its spectrogram where tokens stand for bands of pitch."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from regard.explanation.raw_inputs import Sound
from regard.report.colour import Array

WIDTH, HEIGHT, TEXT = 1200, 240, 22  # pixels
QUIET = 70.0  # decibels below the loudest that are still drawn
STEPS = (1, 2, 5)  # of a scale: times a power of ten


def drawn(sound: Sound, seconds: float, bands: bool = False) -> torch.Tensor:
    """The first `seconds` of a sound, uint8 (height, width, 3), time from left to right with its scale at the foot.

    bands: as a spectrogram on a mel scale, low pitches below.
    """
    samples = sound.samples.detach().cpu().numpy().astype(np.float64)
    samples = np.pad(samples, (0, max(0, round(seconds * sound.rate) - len(samples))))[: round(seconds * sound.rate)]
    grey = spectrogram(samples, sound.rate) if bands else waveform(samples)
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    return torch.from_numpy(_marked(pixels, seconds, sound.seconds if sound.seconds < seconds * 0.99 else None))


def waveform(samples: Array) -> Array:
    """From the least to the largest sample of each column, uint8 (height, width)."""
    edges = np.linspace(0, len(samples), WIDTH + 1).round().astype(int)
    spans = [samples[a : max(b, a + 1)] if a < len(samples) else np.zeros(1) for a, b in itertools.pairwise(edges)]
    peak = max(float(np.abs(samples).max(initial=0.0)), 1e-9)
    middle = (HEIGHT - 1) / 2
    top = middle - np.array([s.max() for s in spans]) / peak * 0.94 * middle
    foot = middle - np.array([s.min() for s in spans]) / peak * 0.94 * middle
    y = np.arange(HEIGHT)[:, None]
    inside = (y >= np.floor(top)) & (y <= np.ceil(foot))
    return np.where(inside, 105, 255).astype(np.uint8)


def spectrogram(samples: Array, rate: int) -> Array:
    """Loudness by pitch and time, dark where loud, uint8 (height, width)."""
    size = max(64, int(0.025 * rate))
    starts = np.linspace(0, max(0, len(samples) - size), min(WIDTH, max(1, len(samples) // 80))).astype(int)
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    frames = np.stack([padded[s : s + size] for s in starts]) * np.hanning(size)
    loud = np.abs(np.fft.rfft(frames, axis=1)).T
    highest = 2595 * np.log10(1 + rate / 2 / 700)
    pitches = 700 * (10 ** (np.linspace(highest, 0, HEIGHT) / 2595) - 1)
    rows = np.clip((pitches / (rate / 2) * (len(loud) - 1)).round().astype(int), 0, len(loud) - 1)
    columns = np.linspace(0, loud.shape[1] - 1, WIDTH).round().astype(int)
    level = 20 * np.log10(np.maximum(loud[rows][:, columns] / max(loud.max(), 1e-12), 1e-9))
    grey: Array = np.rint(255 - 200 * np.clip(1 + level / QUIET, 0, 1)).astype(np.uint8)
    return grey


def ticks(seconds: float, most: int = 10) -> list[float]:
    """Round times from 0 on, at most so many."""
    rough = seconds / most
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(s * power for s in (*STEPS, 10) if s * power >= rough)
    return [float(i * step) for i in range(int(seconds / step) + 1)]


def _marked(pixels: Array, seconds: float, end: float | None) -> Array:
    """The scale of time, and where the sound ends, if silence follows."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(TEXT)
    for time in ticks(seconds):
        x = time / seconds * WIDTH
        draw.line([(x, HEIGHT - 10), (x, HEIGHT)], fill=(40, 40, 40), width=2)
        label = f"{time:g} s"
        if x + draw.textlength(label, font) + 6 < WIDTH:
            draw.text((x + 5, HEIGHT - TEXT - 4), label, fill=(40, 40, 40), font=font)
    if end is not None:
        x = end / seconds * WIDTH
        draw.line([(x, 0), (x, HEIGHT)], fill=(40, 40, 40), width=2)
        draw.text((x + 6, 4), "end of the sound", fill=(40, 40, 40), font=font)
    return np.asarray(image).copy()
