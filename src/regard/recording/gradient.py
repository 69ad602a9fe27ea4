"""Gradients of one target, and where the model's own forward cuts the graph: a gradient that does not come through is said, and
is no map of zeros."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import ModelError
from regard.recording.calls import AttentionCall
from regard.recording.states import Key

CUT = (
    "no gradient reaches the inputs from the target: the model's own forward cuts it off (torch.no_grad(), "
    "torch.inference_mode() or detach(), as around a frozen backbone), or the target does not depend on them; remove the "
    "cut for the run"
)

CHECKPOINTED = (
    "the model runs parts of itself once more in its backward pass (torch.utils.checkpoint), where they cannot be watched; "
    "switch gradient checkpointing off for the run"
)


def gradient(
    y: Tensor, at: Sequence[Tensor], *, keep: bool = False, weight: Tensor | None = None
) -> Sequence[Tensor | None]:
    """∂(Σ w y)/∂t of each tensor, None where y does not depend on it. keep: another gradient of the same run follows.

    Raises ModelError where the model's own backward pass fails.
    """
    try:
        weight = torch.ones_like(y) if weight is None else weight
        return torch.autograd.grad(y, at, weight, retain_graph=keep, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise failed(error) from error


def failed(error: Exception) -> ModelError:
    """What is said where the model's own backward pass fails."""
    if "torch.utils.checkpoint" in str(error):
        return ModelError(CHECKPOINTED)
    why = (str(error).splitlines() or [""])[0].partition(". ")[0]
    return ModelError(f"the model's own backward pass fails: {why}")


def gradients_at(leaves: Sequence[Tensor], y: Tensor) -> Sequence[Tensor | None]:
    """∂y/∂leaf of each. Raises ModelError where y is cut off from all of them."""
    grads: Sequence[Tensor | None] = [None for _ in leaves]
    if y.requires_grad:
        grads = gradient(y, leaves)
    if all(g is None for g in grads):
        raise ModelError(CUT)
    return grads


@dataclass
class Gradients:
    """One target's gradients: calls bound to dO, the gradient at each input (word embeddings for ids), and at states.

    cut: none reaches any input, for the model's forward keeps no graph from them to the target.
    """

    calls: list[AttentionCall]
    inputs: dict[str, Tensor]
    value: Float[Tensor, " batch"]
    states: dict[Key, Tensor] = field(default_factory=dict)
    cut: bool = field(default_factory=bool)

    def bound(self, calls: Sequence[int]) -> list[AttentionCall]:
        """Some calls, bound to the target."""
        return [self.calls[i] for i in calls]


class LateGradients(Gradients):
    """Gradients that are taken when one is first asked for.

    some: what takes those at the outputs of some calls alone, of the last ones where none are named; None where these do not
    suffice. Calls that it was not asked for are left unbound.
    """

    def __init__(
        self,
        take: Callable[[], Gradients],
        value: Tensor,
        some: Callable[[Sequence[int] | None], list[AttentionCall] | None] | None = None,
    ) -> None:
        self._take, self._some, self.value = take, some, value

    def __getattr__(self, name: str) -> Any:
        if name not in ("calls", "inputs", "states", "cut"):
            raise AttributeError(name)
        if name == "calls" and self._some is not None and (found := self._some(None)) is not None:
            self.calls = found
            return found
        self.__dict__ |= self._take().__dict__
        return self.__dict__[name]

    def bound(self, calls: Sequence[int]) -> list[AttentionCall]:
        """Some calls, bound to the target: from no further down than these where not all gradients were taken."""
        known = self.calls
        if self._some is not None and any(known[i].dO is None for i in calls):
            known = self._some(calls) or self._take().calls
        return [known[i] for i in calls]


def cut_off(calls: Sequence[AttentionCall]) -> str:
    """The model's own forward keeps no graph around some calls, and the target rests on no other."""
    modules = ", ".join(dict.fromkeys(c.module or "the model" for c in calls))
    return (
        f"the model's own forward cuts its attention out of the graph ({modules}): it runs under torch.no_grad() or "
        "torch.inference_mode(), or is detached, as a frozen backbone may be; remove that for the run. Methods that need no "
        "gradient (raw_attention, rollout, alpha_avg, alpha_max) work without that if readout= names the row that is read"
    )
