"""Against what an explanation is measured (METHODS.md section 1)."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.errors import Misuse

Channels = float | Sequence[float]


@dataclass(frozen=True)
class Baseline:
    """A reference x0 for the inputs. Make one with the class methods; a dict stream -> Baseline names several.

    `propagated` (the default): at a site inside the model, the value is the site's own when the model runs on x0. `local()`:
    zero at the site itself, whatever the inputs. Baselines of ids act on the word embeddings of content tokens: special
    tokens, padding, positions and the position that is read stay those of x. Streams that a dict does not name stay x.
    """

    kind: str
    value: Any = None
    label: str = ""
    propagated: bool = True

    def local(self) -> Baseline:
        """Zero at the site itself. Only `zero` has such a form; another kind's is refused where it is used."""
        return dataclasses.replace(self, propagated=False, label=f"{self.label}, local")

    @classmethod
    def zero(cls) -> Baseline:
        """Zero: of a float input (in normalised space), of the word embeddings of content tokens, of A at attention sites."""
        return cls("zero", label="zero")

    @classmethod
    def black(cls, mean: Channels | None = None, std: Channels | None = None) -> Baseline:
        """Black pictures. Without a reader, `mean` and `std` of the normalisation must be given, one value a channel."""
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
        """Uniform noise between each picture's own smallest and largest value, drawn for each sample alike."""
        return cls("noise", _whole(seed, "a noise's seed"), f"noise, seed {seed}")

    @classmethod
    def mask_token(cls, id: int) -> Baseline:
        """The mask token in the place of every content token."""
        return cls("token", _whole(id, "a token's id"), f"mask token {id}")

    @classmethod
    def pad_token(cls, id: int) -> Baseline:
        """The padding token in the place of every content token (not masked)."""
        return cls("token", _whole(id, "a token's id"), f"pad token {id}")

    @classmethod
    def of(cls, value: Any, label: str = "given") -> Baseline:
        """The user's own: a tensor of the input's shape (one sample's, or the batch's), or ids in the place of ids."""
        made = torch.from_numpy(value) if hasattr(value, "__array_interface__") and value.ndim else value
        if not isinstance(made, Tensor):
            raise Misuse(f"Baseline.of takes a tensor of the input's shape, not {_said(value)}")
        if made.is_meta:
            raise Misuse("a baseline on the meta device has no values; give one that has")
        return cls("given", made, str(label))

    @classmethod
    def make(cls, what: Any) -> Any:
        """A Baseline (or a dict of them) from what `explain` takes: that, None, 0, a tensor, or words such as "blur:5"."""
        if what is None or isinstance(what, cls):
            return what
        if isinstance(what, Mapping):
            return {_stream(name): cls.zero() if one is None else cls.make(one) for name, one in what.items()}
        if isinstance(what, str):
            from regard import spelling

            return spelling.baseline(what, _no_reader)
        if isinstance(what, Tensor) or (hasattr(what, "__array_interface__") and what.ndim):
            return cls.of(what)
        if isinstance(what, int | float) and not isinstance(what, bool) and what == 0:
            return cls.zero()
        raise Misuse(
            "a baseline is a Baseline, a tensor of the input's shape, words such as 'zero' or 'blur:5', or a dict from streams "
            f"to these; not {_said(what)}"
        )


def _fixed(values: Channels | None) -> float | tuple[float, ...] | None:
    """One value a channel, as a tuple."""
    return values if values is None or isinstance(values, int | float) else tuple(float(v) for v in values)


def _stream(name: Any) -> str:
    if not isinstance(name, str):
        raise Misuse(f"a dict of baselines goes from the names of streams, not from {_said(name)}")
    return name


def _no_reader(kind: str) -> int:
    raise Misuse(f"which token {kind!r} is only a reader knows (regard.load); else give Baseline.{kind}_token(id)")


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
