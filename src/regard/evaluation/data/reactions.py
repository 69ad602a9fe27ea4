"""Chemical reactions in SMILES whose atoms are numbered, cut into tokens as RXNMapper's model reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from regard.errors import Misuse

TOKEN = re.compile(r"\[[^\]\[]+\]|Br|Cl|>>|%\d\d|[BCNOPSFIbcnops]|[\-=#$:/\\.~()*>]|\d")
ATOM = re.compile(
    r"\[(?P<isotope>\d*)(?P<symbol>[A-Z][a-z]?|[a-z]{1,2}|\*)(?P<chirality>@{0,2})(?P<hydrogens>(H\d?)?)"
    r"(?P<charge>([-+]\d?)?)(:(?P<number>\d+))?]"
)
UNBRACKETED = {"B", "C", "N", "O", "P", "S", "F", "Cl", "Br", "I", "b", "c", "n", "o", "p", "s", "*"}
"""Atoms that are written without brackets where nothing is said of them but their hydrogens, which then go without saying."""


class WrittenToken(NamedTuple):
    """A token as the model reads it; the element, if it is an atom; and the atom's number on the map."""

    text: str
    element: str = ""
    number: int | None = None


def token_of(written: str) -> WrittenToken:
    """A token of a mapped reaction, its number taken off: [CH3:1] is C, [nH:2] is [nH], [O-:3] is [O-].

    A placeholder (*) keeps no number: there is no element to ask for.
    """
    found = ATOM.fullmatch(written)
    if found is None:
        return WrittenToken(written, written.capitalize() if written[0].isalpha() or written == "*" else "")
    symbol, element = found["symbol"], found["symbol"].capitalize()
    if found["number"] is None:
        return WrittenToken(written, element)
    special = found["isotope"] or found["chirality"] or found["charge"] or (symbol in ("n", "p") and found["hydrogens"])
    inside = "".join(found[part] for part in ("isotope", "symbol", "chirality", "hydrogens", "charge"))
    text = symbol if symbol in UNBRACKETED and not special else f"[{inside}]"
    return WrittenToken(text, element, None if symbol == "*" else int(found["number"]))


@dataclass(frozen=True)
class Reaction:
    """A mapped reaction: its tokens, reactants first, then >>, then the product."""

    tokens: tuple[WrittenToken, ...]

    @classmethod
    def parse(cls, smiles: str) -> Reaction:
        """From mapped SMILES. Raises Misuse for what is not: text that no token covers, or not one >>."""
        written = TOKEN.findall(smiles)
        if "".join(written) != smiles or written.count(">>") != 1:
            raise Misuse(
                f"{smiles!r} is no reaction SMILES that is read here: reactants>>product, in tokens that it knows"
            )
        return cls(tuple(token_of(t) for t in written))

    @cached_property
    def arrow(self) -> int:
        """Where >> stands."""
        return [t.text for t in self.tokens].index(">>")

    @property
    def product(self) -> str:
        """The product as the model reads it."""
        return "".join(t.text for t in self.tokens[self.arrow + 1 :])

    @property
    def reactant_atoms(self) -> list[int]:
        """Places of the reactants' atoms, numbered or not."""
        return [i for i, t in enumerate(self.tokens[: self.arrow]) if t.element]

    @property
    def questions(self) -> list[tuple[int, int]]:
        """(place of a product's atom, place of the reactants' atom of the same number), for all that have one."""
        origin = {t.number: i for i, t in enumerate(self.tokens[: self.arrow]) if t.number is not None}
        product = enumerate(self.tokens[self.arrow + 1 :], self.arrow + 1)
        return [(i, origin[t.number]) for i, t in product if t.number in origin]


__all__ = ["TOKEN", "Reaction", "WrittenToken", "token_of"]
