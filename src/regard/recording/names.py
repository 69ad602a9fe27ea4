"""What parameters are called: by the shortest dotted suffix of their name that tells them apart.

Weights that are offloaded or sharded are put in place while their module runs, as new tensors; so a parameter that is not known
is looked for in the model again.
"""

from __future__ import annotations

from torch import Tensor, nn

from regard.recording.by_tensor import ByTensor


class Names:
    """The short name of each of a model's parameters (`.weight` left out)."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.known: ByTensor[str] = ByTensor()
        full = [(n.removesuffix(".weight"), p) for n, p in model.named_parameters(remove_duplicate=False)]
        owner: dict[str, int] = {}
        several = {s for name, p in full for s in _suffixes(name) if owner.setdefault(s, id(p)) != id(p)}
        self.short: dict[str, str] = {}
        for name, p in full:
            if (short := self.known.get(p)) is None:
                self.known[p] = short = next((s for s in _suffixes(name) if s not in several), name)
            self.short[name] = short

    def of(self, parameter: Tensor) -> str | None:
        """Its short name; None for a parameter that is not the model's."""
        name = self.known.get(parameter)
        if name is None:
            found = (n for n, p in self.model.named_parameters(remove_duplicate=False) if p is parameter)
            name = self.short.get(next(found, "").removesuffix(".weight"))
            if name is not None:  # else it may not be in its place yet
                self.known[parameter] = name
        return name

    def __contains__(self, name: str) -> bool:
        return name in self.short.values()


def _suffixes(name: str) -> list[str]:
    """Dotted suffixes, shortest first."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in reversed(range(len(parts)))]
