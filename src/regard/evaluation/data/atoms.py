"""Numbered atoms of chemical reactions: from which atom of the reactants does an atom of the product come?

A model that fills in masked tokens is asked for the token of one atom of the product, which is masked; the answer rests on the
atom of the reactants that has the same number. `benchmarks/atoms.py --folder` writes such a folder: a model, its tokenizer, and
`reactions.txt`, a mapped reaction a line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.errors import InputError, nearest
from regard.evaluation.data.dataset import DataSet, files_digest, folder_of
from regard.evaluation.data.known_scenes import AskedModel
from regard.evaluation.data.reactions import Reaction
from regard.evaluation.examples import Example, KnownSource
from regard.explanation.raw_inputs import Reading

REACTIONS, WORDS = "reactions.txt", "input_ids"
AMONG = ("atoms", "element", "all")


class MaskedToken(AskedModel):
    """A model that fills in masked tokens, at one place of each text."""

    def forward(
        self, input_ids: Int[Tensor, "batch token"], place: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch word"]:
        """The scores of all tokens."""
        logits = self.model(input_ids=input_ids).logits
        return logits[torch.arange(len(place), device=logits.device), place]  # type: ignore[no-any-return]


@dataclass(kw_only=True)
class NumberedAtoms(DataSet):
    """The numbered atoms of the products of all reactions, one example each.

    Attributes:
        among: which tokens compete: the "atoms" of the reactants, those of the right "element", or "all" but the masked one.
    """

    kind: ClassVar[str] = "atoms"
    folder: str
    among: str = "atoms"
    asked: list[tuple[int, int, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.among not in AMONG:
            raise nearest(self.among, AMONG, "set of tokens that compete")
        self.path = folder_of(self.folder, "a folder that holds reactions.txt") / REACTIONS
        if not self.path.is_file():
            raise InputError(f"{self.folder} holds no {REACTIONS}, a mapped reaction a line")
        self.reactions = [Reaction.parse(line) for line in self.path.read_text(encoding="utf-8").split()]
        self.asked = [(r, i, origin) for r, reaction in enumerate(self.reactions) for i, origin in reaction.questions]
        if not self.asked:
            raise InputError(f"{self.path} holds no reaction whose atoms are numbered on both sides")

    @property
    def source(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def sourced(self) -> bool:
        """They are."""
        return True

    def __len__(self) -> int:
        return len(self.asked)

    def name_of(self, number: int) -> str:
        """Reaction and atom."""
        reaction, at, _ = self.asked[number]
        return f"reaction {reaction}, atom {self.reactions[reaction].tokens[at].number}"

    def choices(self) -> dict[str, Any]:
        """Which tokens compete."""
        return super().choices() | {"among": self.among}

    def model_of(self, reader: Any) -> nn.Module:
        """The model at the masked token."""
        return MaskedToken(reader.model)

    def read(self, reader: Any, number: int) -> Example:
        """An atom of a product; its class is its token."""
        which, at, origin = self.asked[number]
        reaction, tokenizer = self.reactions[which], reader.processor
        texts = [tokenizer.cls_token, *(t.text for t in reaction.tokens), tokenizer.sep_token]
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(texts)])
        label, place = int(ids[0, at + 1]), at + 1
        ids[0, place] = tokenizer.mask_token_id
        elements = ["", *(t.element for t in reaction.tokens), ""]
        competing = torch.zeros(len(texts), dtype=torch.bool)
        if self.among == "all":
            competing[:] = True
            competing[place] = False
        else:
            competing[torch.tensor(reaction.reactant_atoms) + 1] = True
        if self.among == "element":
            competing &= torch.tensor([e == elements[origin + 1] for e in elements])
        source = torch.arange(len(texts)) == origin + 1
        device = next(reader.model.parameters()).device
        inputs = {WORDS: ids.to(device), "place": torch.tensor([place], device=device)}
        known = KnownSource(WORDS, source, competing)
        return Example(self.name_of(number), Reading(inputs), label, group=reaction.product, known=known)

    def digest(self) -> str:
        """Of the reactions."""
        return files_digest([self.path], self.path.parent)


__all__ = ["MaskedToken", "NumberedAtoms"]
