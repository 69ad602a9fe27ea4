"""What parameters are called: by the shortest dotted suffix of their name that tells them apart.

Weights that are offloaded or sharded are put in place while their module runs, as new tensors; so a parameter that is not known
is looked for in the model again.
"""

from __future__ import annotations

from torch import Tensor, nn

from regard.recording.tokens.by_tensor import ByTensor


class Names:
    """The short name of each of a model's parameters (`.weight` left out)."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.owner: dict[str, int] = {}
        self.full: ByTensor[str] = ByTensor()
        self.short: dict[str, str] = {}
        for long, p in model.named_parameters(remove_duplicate=False):
            name = long.removesuffix(".weight")
            self.owner[name] = id(p)
            if p not in self.full:
                self.full[p] = name

    def of(self, parameter: Tensor) -> str | None:
        """Its short name; None for a parameter that is not the model's."""
        name = self.full.get(parameter)
        if name is None:
            found = (n for n, p in self.model.named_parameters(remove_duplicate=False) if p is parameter)
            name = next(found, "").removesuffix(".weight")
            if name not in self.owner:  # it may not be in its place yet
                return None
            self.full[parameter] = name
        return self._short(name)

    def _short(self, name: str) -> str:
        """The shortest suffix of a name that no other parameter's has."""
        if name not in self.short:
            others = [f".{n}" for n, owner in self.owner.items() if owner != self.owner[name]]
            alone = (s for s in _suffixes(name) if not any(n.endswith(f".{s}") for n in others))
            self.short[name] = next(alone, name)
        return self.short[name]

    def __contains__(self, name: str) -> bool:
        return any(self._short(full) == name for full in self.owner if full.endswith(name))


def _suffixes(name: str) -> list[str]:
    """Dotted suffixes, shortest first; none is a bare number (a place in a list of parameters)."""
    parts = name.split(".")
    found = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
    return [s for s in found if not s.replace(".", "").isdigit()] or [name]
