"""The bundled questions of ``zoo/lxmert-scenes``."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from safetensors.torch import load_file
from torch import Tensor

from regard.zoo.region_encoder import region_encoder


@dataclass(frozen=True)
class Questions:
    """Questions about scenes, and for each of them the regions that its answer must rest on.

    Of the scenes: ``images`` uint8 (s, 80, 80, 3), RGB; ``boxes`` float (s, 8, 4), (left, top, right, bottom) as fractions
    of the picture, items and clutter in random order; ``features`` float (s, 8, 64), what the model sees of each box;
    ``items``, ``colours`` int64 (s, 8): class and colour of the item in a box, -1 for clutter, as numbered by
    ``item_names`` and ``colour_names``.

    Of the questions: ``texts``; ``answers``, "" for a question about what is not there; ``kinds``; ``scene`` int64 (q,),
    the scene it is about; ``evidence`` bool (q, 8), the regions the answer cannot be known without; ``source`` bool
    (q, 8), those of them that it is read off (in a relation not the item that is named); ``asked`` int64 (q,), the token
    (0 is [CLS]) that names what is asked for, -1 if all items are.
    """

    images: UInt8[Tensor, "s 80 80 3"]
    boxes: Float[Tensor, "s 8 4"]
    features: Float[Tensor, "s 8 64"]
    items: Int64[Tensor, "s 8"]
    colours: Int64[Tensor, "s 8"]
    texts: tuple[str, ...]
    answers: tuple[str, ...]
    kinds: tuple[str, ...]
    scene: Int64[Tensor, " q"]
    evidence: Bool[Tensor, "q 8"]
    source: Bool[Tensor, "q 8"]
    asked: Int64[Tensor, " q"]
    item_names: tuple[str, ...]
    colour_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.texts)

    @property
    def absent(self) -> Tensor:
        """bool (q,): the questions about what is not there."""
        return torch.tensor([not answer for answer in self.answers])

    def of_kind(self, kind: str) -> Tensor:
        """bool (q,): the questions of ``kind`` that have an answer."""
        return torch.tensor([k == kind and bool(a) for k, a in zip(self.kinds, self.answers, strict=True)])

    def inputs(self) -> dict[str, Tensor]:
        """Return each question's ``visual_feats`` (q, 8, 64) and ``visual_pos`` (q, 8, 4); the words go to the tokenizer."""
        return {"visual_feats": self.features[self.scene], "visual_pos": self.boxes[self.scene]}

    def phrases(self) -> list[list[tuple[int, tuple[int, ...]]]]:
        """Return for each question the (token, regions) known of it: the asked word and the regions that it names.

        In a relation it names the item beside the one that is asked for. No pair where all items are asked for, or where the
        item is not there.
        """
        beside = torch.tensor([kind == "relation" for kind in self.kinds])
        named = torch.where(beside[:, None], self.evidence & ~self.source, self.evidence)
        regions = [tuple(row.nonzero()[:, 0].tolist()) for row in named]
        return [[(at, of)] if at >= 0 and of else [] for at, of in zip(self.asked.tolist(), regions, strict=True)]

    def select(self, rows: Tensor) -> Questions:
        """Return the questions at ``rows``, indices or a bool mask (q,), about the same scenes."""
        kept = torch.arange(len(self))[rows].tolist()
        texts, answers, kinds = (tuple(x[i] for i in kept) for x in (self.texts, self.answers, self.kinds))
        scene, evidence, source, asked = (x[rows] for x in (self.scene, self.evidence, self.source, self.asked))
        return replace(
            self,
            texts=texts,
            answers=answers,
            kinds=kinds,
            scene=scene,
            evidence=evidence,
            source=source,
            asked=asked,
        )

    def redirections(self) -> Int64[Tensor, "pairs 2"]:
        """Return pairs of questions (rows) about one scene that differ in the asked word alone, and rest on other regions."""
        words = [text.split() for text in self.texts]
        for i, at in enumerate(self.asked.tolist()):
            if at >= 0:
                words[i][at - 1] = ""
        found = [
            (i, j)
            for i in range(len(self))
            for j in range(i + 1, len(self))
            if self.scene[i] == self.scene[j]
            and words[i] == words[j]
            and self.answers[i]
            and self.answers[j]
            and not torch.equal(self.source[i], self.source[j])
        ]
        return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)

    def counterparts(self) -> tuple[Questions, Int64[Tensor, "pairs 2"]]:
        """Return these questions and, behind them, the absent ones about an item that is there, and the pairs of both.

        Scene and wording stay. The item is the first one in the scene that no other has the class of; a scene without one
        gives no pair.
        """
        made = [
            (i, r) for i in self.absent.nonzero()[:, 0].tolist() if (r := self._alone(int(self.scene[i]))) is not None
        ]
        if not made:
            return self, torch.zeros(0, 2, dtype=torch.int64)
        rows, regions = (torch.tensor(column) for column in zip(*made, strict=True))
        more, only = self.select(rows), torch.eye(self.boxes.shape[1], dtype=torch.bool)[regions]
        asked = list(zip(more.texts, more.kinds, rows.tolist(), regions.tolist(), strict=True))
        both = replace(
            self,
            texts=self.texts
            + tuple(self._about(text, int(self.asked[i]), r, int(self.scene[i])) for text, _, i, r in asked),
            answers=self.answers + tuple(self._answer(kind, int(self.scene[i]), r) for _, kind, i, r in asked),
            kinds=self.kinds + more.kinds,
            scene=torch.cat([self.scene, more.scene]),
            evidence=torch.cat([self.evidence, only]),
            source=torch.cat([self.source, only]),
            asked=torch.cat([self.asked, more.asked]),
        )
        return both, torch.stack([rows, len(self) + torch.arange(len(rows))], 1)

    def _alone(self, scene: int) -> int | None:
        """The first region that holds an item whose class no other item of the scene has."""
        classes = self.items[scene].tolist()
        return next((r for r, k in enumerate(classes) if k >= 0 and classes.count(k) == 1), None)

    def _about(self, text: str, asked: int, region: int, scene: int) -> str:
        """A question with the name of the item in a region in place of the asked word."""
        words = text.split()
        words[asked - 1] = self.item_names[int(self.items[scene, region])]
        return " ".join(words)

    def _answer(self, kind: str, scene: int, region: int) -> str:
        """The colour of the item in a region, or its side."""
        if kind == "colour":
            return self.colour_names[int(self.colours[scene, region])]
        return "left" if float(self.boxes[scene, region, 0::2].mean()) < 0.5 else "right"


@torch.no_grad()
def read_questions(folder: Path) -> Questions:
    """Read the bundled questions; the region features are computed anew from the pixels."""
    data = load_file(folder / "questions.safetensors")
    rows = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    texts, answers, kinds = (tuple(q[key] for q in rows["questions"]) for key in ("text", "answer", "kind"))
    return Questions(
        features=region_encoder(folder)(data["images"], data["boxes"]),
        texts=texts,
        answers=answers,
        kinds=kinds,
        item_names=tuple(rows["items"]),
        colour_names=tuple(rows["colours"]),
        **data,
    )
