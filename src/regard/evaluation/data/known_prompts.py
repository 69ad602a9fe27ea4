"""The zoo's prompts and questions, each with the tokens that its answer is known to rest on.

`zoo/llama-facts`: the next word after a prompt, which is known from one token of it alone. `zoo/lxmert-scenes`: the answer to a
question about a scene, which is known from some of its regions alone.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard import zoo
from regard.evaluation.data.dataset import DataSet, files_digest, reading_of
from regard.evaluation.data.known_scenes import AskedModel
from regard.evaluation.examples import Example, KnownSource
from regard.models.regions import FEATURES

WORDS = "input_ids"


class NextToken(AskedModel):
    """A language model at the end of its prompt."""

    def forward(
        self, input_ids: Int[Tensor, "batch token"], attention_mask: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch word"]:
        """The scores of all words."""
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits[:, -1]  # type: ignore[no-any-return]


class AnswerScores(AskedModel):
    """An LXMERT's scores of its answers."""

    def forward(
        self,
        input_ids: Int[Tensor, "batch token"],
        visual_feats: Float[Tensor, "batch region feature"],
        visual_pos: Float[Tensor, "batch region 4"],
        attention_mask: Int[Tensor, "batch token"],
    ) -> Float[Tensor, "batch answer"]:
        """The scores of all answers."""
        given = {"visual_feats": visual_feats, "visual_pos": visual_pos, "attention_mask": attention_mask}
        return self.model(input_ids=input_ids, **given).question_answering_score  # type: ignore[no-any-return]


@dataclass(kw_only=True)
class KnownPrompts(DataSet):
    """What both have in common."""

    kind: ClassVar[str] = "zoo"
    name: str

    @property
    def source(self) -> str:
        """Its name."""
        return self.name

    @property
    def sourced(self) -> bool:
        """They are."""
        return True


@functools.cache
def _facts() -> list[zoo.Fact]:
    return zoo.facts()


@functools.cache
def _questions() -> zoo.Questions:
    return zoo.questions()


@dataclass(kw_only=True)
class FactPrompts(KnownPrompts):
    """The 400 prompts. All tokens compete, <bos>, stops and the last one, too."""

    def __len__(self) -> int:
        return len(_facts())

    def name_of(self, number: int) -> str:
        """Its kind and number."""
        return f"{_facts()[number].kind} {number}"

    def model_of(self, reader: Any) -> nn.Module:
        """The model at the end of a prompt."""
        return NextToken(reader.model)

    def read(self, reader: Any, number: int) -> Example:
        """A prompt; its class is the next word."""
        fact = _facts()[number]
        reading = reading_of(reader, fact.prompt)
        count = reading.inputs[WORDS].shape[1]
        at = torch.arange(count) == fact.source
        label = int(reader.processor.convert_tokens_to_ids(fact.answer))
        known = KnownSource(WORDS, at, torch.ones(count, dtype=torch.bool))
        return Example(self.name_of(number), reading, label, known=known)

    def digest(self) -> str:
        """They are drawn by Regard's code, which has a fingerprint of its own; of the words."""
        home = zoo.folder(self.name)
        return files_digest([home / "tokenizer.json"], home)


@dataclass(kw_only=True)
class SceneQuestions(KnownPrompts):
    """The questions that have an answer. Regions compete, and the known ones are those that the answer is read off."""

    FILES: ClassVar[tuple[str, ...]] = ("questions.safetensors", "questions.json", "regions.safetensors")

    @functools.cached_property
    def _rows(self) -> list[int]:
        return [i for i, answer in enumerate(_questions().answers) if answer]

    def __len__(self) -> int:
        return len(self._rows)

    def name_of(self, number: int) -> str:
        """Its kind and number."""
        row = self._rows[number]
        return f"{_questions().kinds[row]} {row}"

    def model_of(self, reader: Any) -> nn.Module:
        """The model by its answers' scores."""
        return AnswerScores(reader.model)

    def read(self, reader: Any, number: int) -> Example:
        """A scene with a question."""
        asked, row = _questions(), self._rows[number]
        scene = int(asked.scene[row])
        picture, boxes = asked.images[scene].numpy(), asked.boxes[scene]
        reading = reader.read_noted((picture, asked.texts[row]), False, boxes)[0]
        taken = {k: reading.inputs[k] for k in (WORDS, FEATURES, "visual_pos", "attention_mask")}
        source = asked.source[row]
        known = KnownSource(FEATURES, source, torch.ones(len(source), dtype=torch.bool))
        label = self.number_of(asked.answers[row], reader)
        reading = dataclasses.replace(reading, inputs=taken)
        return Example(self.name_of(number), reading, label, group=f"scene {scene}", known=known)

    def digest(self) -> str:
        """Of its files."""
        home = zoo.folder(self.name)
        return files_digest([home / f for f in self.FILES], home)


__all__ = ["AnswerScores", "FactPrompts", "NextToken", "SceneQuestions"]
