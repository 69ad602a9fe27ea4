"""Against what an explanation is measured (METHODS.md section 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

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
        return cls("blur", float(sigma), f"blur, sigma {sigma:g}")

    @classmethod
    def noise(cls, seed: int = 0) -> Baseline:
        """Uniform noise between each picture's own smallest and largest value, drawn for each sample alike."""
        return cls("noise", int(seed), f"noise, seed {seed}")

    @classmethod
    def mask_token(cls, id: int) -> Baseline:
        """The mask token in the place of every content token."""
        return cls("token", int(id), f"mask token {id}")

    @classmethod
    def pad_token(cls, id: int) -> Baseline:
        """The padding token in the place of every content token (not masked)."""
        return cls("token", int(id), f"pad token {id}")

    @classmethod
    def of(cls, value: Tensor, label: str = "given") -> Baseline:
        """The user's own: a tensor of the input's shape (one sample's, or the batch's), or ids in the place of ids."""
        return cls("given", value, label)


def _fixed(values: Channels | None) -> float | tuple[float, ...] | None:
    """One value a channel, as a tuple."""
    return values if values is None or isinstance(values, int | float) else tuple(float(v) for v in values)
