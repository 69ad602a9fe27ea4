"""Against what an explanation is measured (formulas.md section 1)."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regard.errors import Misuse, nearest

Channels = float | Sequence[float]
TokenId = Callable[[str], int]
"""The id of a tokenizer's "mask", "pad" or "unk" token."""
TOKENS = ("mask", "pad", "unk")
SPELLINGS = ("zero", "black", "white", "mean", "blur", "noise", *TOKENS)
"""Baselines that have a name in words, as `Baseline.parse` reads them."""


@dataclass(frozen=True)
class Baseline:
    """A reference x0 for the inputs. Make one with the class methods; a dict stream -> Baseline names several.

    `propagated` (the default): at a site inside the model, the value is the one that the site has when the model runs on x0.
    `local()`: zero at the site itself, whatever the inputs. Baselines of ids change the word embeddings of content tokens;
    special tokens, padding, positions and the position that is read stay as in x. Streams that a dict does not name stay x.
    """

    kind: str
    value: Any = None
    label: str = ""
    propagated: bool = True

    def local(self) -> Baseline:
        """Zero at the site itself. Only `zero` has such a form; other kinds are refused when they are used."""
        return dataclasses.replace(self, propagated=False, label=f"{self.label}, local")

    @classmethod
    def zero(cls) -> Baseline:
        """Zero: of a float input (in normalised space), of the word embeddings of content tokens, of A at attention sites."""
        return cls("zero", label="zero")

    @classmethod
    def black(cls, mean: Channels | None = None, std: Channels | None = None) -> Baseline:
        """Black pictures. Without a reader, `mean` and `std` of the normalisation must be given, one value per channel."""
        return cls("black", (_fixed(mean), _fixed(std)), "black")

    @classmethod
    def white(cls, mean: Channels | None = None, std: Channels | None = None) -> Baseline:
        """White pictures; `mean` and `std` as for `black`."""
        return cls("white", (_fixed(mean), _fixed(std)), "white")

    @classmethod
    def mean(cls) -> Baseline:
        """Each picture's own mean, channel by channel; of features, the mean over tokens."""
        return cls("mean", label="mean")

    @classmethod
    def blur(cls, sigma: float = 10.0) -> Baseline:
        """The picture, Gauss-blurred; `sigma` in pixels of the model's input."""
        if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 < sigma < math.inf:
            raise Misuse(f"a blur's sigma is a positive number of pixels, not {_said(sigma)}")
        return cls("blur", float(sigma), f"blur, sigma {sigma:g}")

    @classmethod
    def noise(cls, seed: int = 0) -> Baseline:
        """Uniform noise between each picture's smallest and largest value, drawn for each sample in the same way."""
        return cls("noise", _whole(seed, "a noise's seed"), f"noise, seed {seed}")

    @classmethod
    def mask_token(cls, id: int) -> Baseline:
        """The mask token in place of every content token."""
        return cls("token", _whole(id, "a token's id"), f"mask token {id}")

    @classmethod
    def pad_token(cls, id: int) -> Baseline:
        """The padding token in place of every content token (not masked)."""
        return cls("token", _whole(id, "a token's id"), f"pad token {id}")

    @classmethod
    def unk_token(cls, id: int) -> Baseline:
        """The token for unknown words in place of every content token."""
        return cls("token", _whole(id, "a token's id"), f"unknown token {id}")

    @classmethod
    def of(cls, value: Any, label: str = "given") -> Baseline:
        """Your own: a tensor of the input's shape (one sample's, or the batch's), or ids for an input of ids."""
        import torch

        made = torch.from_numpy(value) if _is_array(value) else value
        if not isinstance(made, torch.Tensor):
            raise Misuse(f"Baseline.of takes a tensor of the input's shape, not {_said(value)}")
        if made.is_meta:
            raise Misuse("a baseline on the meta device has no values; give one with values")
        return cls("given", made, str(label))

    @classmethod
    def make(cls, what: Any) -> Any:
        """A Baseline (or a dict of them) from what `explain` takes: a Baseline, None, 0, a tensor, or words as "blur:5"."""
        if what is None or isinstance(what, cls):
            return what
        if isinstance(what, Mapping):
            return {_stream(name): cls.zero() if one is None else cls.make(one) for name, one in what.items()}
        if isinstance(what, str):
            return cls.parse(what)
        import torch

        if isinstance(what, torch.Tensor) or _is_array(what):
            return cls.of(what)
        if isinstance(what, int | float) and not isinstance(what, bool) and what == 0:
            return cls.zero()
        raise Misuse(
            "a baseline is a Baseline, a tensor of the input's shape, words such as 'zero' or 'blur:5', or a dict from streams "
            f"to these; not {_said(what)}"
        )

    @classmethod
    def parse(cls, words: str, token_id: TokenId | None = None) -> Baseline:
        """`zero` (`zero:local`), `black`, `white`, `mean`, `blur` (`blur:SIGMA`), `noise` (`noise:SEED`), `mask`, `pad`, `unk`.

        `token_id` gives the ids of the last three, which a reader knows. Raises UnknownName or Misuse, naming what would be
        accepted.

        >>> Baseline.parse("blur:5").label
        'blur, sigma 5'
        """
        kind, number, local = _parts(words)
        if kind in TOKENS:
            made: Baseline = getattr(cls, f"{kind}_token")((token_id or _no_reader)(kind))
            return made
        made = getattr(cls, kind)(*(() if number is None else (number,)))
        return made.local() if local else made


def _parts(words: str) -> tuple[str, float | None, bool]:
    """A baseline's kind, its number if it has one, and whether it is local."""
    kind, *rest = [part.strip().casefold() for part in words.split(":")]
    if kind not in SPELLINGS:
        raise nearest(kind, SPELLINGS, "baseline")
    local = rest[-1:] == ["local"]
    numbers = rest[:-1] if local else rest
    if local and kind != "zero":
        raise Misuse(f"baseline {words!r}: only zero has a local form, zero at the site itself; write zero:local")
    if numbers and kind not in ("blur", "noise"):
        raise Misuse(f"baseline {words!r} is not understood: {kind} takes no number")
    if len(numbers) > 1:
        raise Misuse(f"baseline {words!r} is not understood: {kind} takes one number")
    return kind, _number(kind, numbers[0]) if numbers else None, local


def _number(kind: str, words: str) -> float:
    if kind == "noise":
        if not re.fullmatch(r"[0-9]{1,9}", words):
            raise Misuse(f"noise:{words} is not understood: its seed is a whole number, as in noise:1")
        return int(words)
    try:
        value = float(words)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise Misuse(f"blur:{words} is not understood: its sigma is a positive number of pixels, as in blur:10")
    return value


def _is_array(value: Any) -> bool:
    """Whether it is an array of numpy, not a single number of it."""
    return hasattr(value, "__array_interface__") and bool(value.ndim)


def _fixed(values: Channels | None) -> float | tuple[float, ...] | None:
    """One value a channel, as a tuple."""
    return values if values is None or isinstance(values, int | float) else tuple(float(v) for v in values)


def _stream(name: Any) -> str:
    if not isinstance(name, str):
        raise Misuse(f"the keys of a dict of baselines are names of streams, not {_said(name)}")
    return name


def _no_reader(kind: str) -> int:
    raise Misuse(
        f"only a reader (regard.load) knows the {kind} token; without a reader, give Baseline.{kind}_token(id)"
    )


def _whole(value: Any, what: str) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or abs(number) >= 1 << 62:
        raise Misuse(f"{what} is a whole number, not {_said(value)}")
    return number


def _said(value: Any) -> str:
    """What was given, in a few words."""
    return repr(value)[:40] if isinstance(value, str | int | float) else type(value).__name__
