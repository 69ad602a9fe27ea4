"""Questions whose right tokens are known, of every zoo model and of RXNMapper: what a map is held against, token by token.

Each set asks only what its model answers rightly (of a wrong answer nobody knows what it should rest on), and explains that
answer. Its *right* tokens:

- vit-scenes: patches of which half or more are pixels of the item that the model names;
- bert-sentiment: pieces of the marked words;
- llama-facts: the one token of the prompt that is the answer;
- lxmert-scenes: the regions that the answer is read off;
- detr-scenes: patches of which half or more are pixels of the item that the query found;
- clip-scenes: patches of which half or more are pixels of the item that a caption names, where it names one;
- vlm-scenes: the same of the item that the one word of the answer speaks of;
- atoms: the reactants' atom that the product's atom came from.

`competing` are the tokens among which the top one is sought: all that a causal test may take away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from torch import Tensor, nn

import regard
from regard import Target, zoo
from regard.explanation.raw_inputs import Reading, Text

PICTURE, TEXT, REGIONS = "pixel_values", "input_ids", "visual_feats"
HALF = 0.5
BATCH = 12


@dataclass(frozen=True)
class Asked:
    """Some questions to one model, explained together.

    Attributes:
        names: of the questions. groups: what each shares with others (a scene that is asked about twice).
        target: of the answers, its classes fixed. stream: whose tokens are judged.
        competing, right: bool (question, token).
    """

    model: nn.Module
    reading: Reading
    target: Target
    stream: str
    names: tuple[str, ...]
    groups: tuple[str, ...]
    competing: Tensor
    right: Tensor

    @property
    def chance(self) -> Tensor:
        """How often a token drawn evenly is right, (question,)."""
        return (self.right & self.competing).sum(1) / self.competing.sum(1)


def holds(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """The patches of which half or more are a mask's: masks bool (q, H, W) -> bool (q, patches)."""
    share = torch.nn.functional.adaptive_avg_pool2d(masks.float()[:, None], grid)
    return share.flatten(1) >= HALF


def cut(inputs: dict[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Some samples of tensors."""
    return {k: v[list(rows)] for k, v in inputs.items()}


def chunks(rows: Sequence[int], count: int, size: int = BATCH) -> Iterator[list[int]]:
    """So many rows, evenly spread over all, in batches."""
    step = len(rows) / min(count, len(rows))
    some = [rows[int(i * step)] for i in range(min(count, len(rows)))]
    for i in range(0, len(some), size):
        yield some[i : i + size]


@torch.no_grad()
def best(model: nn.Module, inputs: dict[str, Tensor], output: str = "logits") -> Tensor:
    """The class with the highest score of each sample."""
    found: Tensor = getattr(model(**inputs), output)
    return found.argmax(-1)


# -- the sets --------------------------------------------------------------------------------------------------------------


def scenes(count: int) -> Iterator[Asked]:
    reader, data = regard.load("zoo/vit-scenes"), zoo.scenes()
    inputs = reader.read(list(data.images)).inputs
    named = best(reader.model, inputs)
    hit = data.labels == named[:, None]
    rows = hit.any(1).nonzero()[:, 0].tolist()
    masks = data.masks[torch.arange(len(data)), hit.int().argmax(1)]
    side = 8
    for some in chunks(rows, count):
        right = holds(masks[some], (side, side))
        yield Asked(
            reader.model, Reading(cut(inputs, some)), Target.logit(named[some]), PICTURE,
            tuple(f"scene {i}" for i in some), tuple(f"scene {i}" for i in some), torch.ones_like(right), right,
        )  # fmt: skip


def sentences(count: int) -> Iterator[Asked]:
    reader, data = regard.load("zoo/bert-sentiment"), zoo.sentences()
    for some in chunks(range(len(data)), count, 1):
        sentence = data[some[0]]
        reading = reader.read(sentence.text)
        said = best(reader.model, reading.inputs)
        if reader.labels[int(said)].casefold() != sentence.label.casefold():
            continue
        text = reading.raw[TEXT][0]
        assert isinstance(text, Text)
        marked = {w.casefold() for w in sentence.words}
        right = [
            w is not None and sentence.text[slice(*text.words[w])].strip(".,!").casefold() in marked
            for w in text.word_of
        ]
        name = f"sentence {some[0]}"
        plain = Reading(reading.inputs, special=reading.special)
        competing = ~torch.tensor([text.special])
        yield Asked(
            reader.model,
            plain,
            Target.logit(said),
            TEXT,
            (name,),
            (name,),
            competing,
            torch.tensor([right]) & competing,
        )


def facts(count: int) -> Iterator[Asked]:
    reader, data = regard.load("zoo/llama-facts"), zoo.facts()
    ids = reader.processor.convert_tokens_to_ids
    for some in chunks(range(len(data)), count, 1):
        fact = data[some[0]]
        reading = reader.read(fact.prompt)
        answer = torch.tensor([ids(fact.answer)])
        with torch.no_grad():
            if not torch.equal(reader.model(**reading.inputs).logits[:, -1].argmax(-1), answer):
                continue
        length = reading.inputs[TEXT].shape[1]
        right = (torch.arange(length) == fact.source)[None]
        competing = torch.arange(length)[None] < length - 1
        special = reading.special.get(TEXT)
        competing = competing if special is None else competing & ~special.bool()
        name = f"fact {some[0]}"
        plain = Reading(reading.inputs, special=reading.special)
        yield Asked(reader.model, plain, Target.next_token(answer), TEXT, (name,), (name,), competing, right)


def questions(count: int) -> Iterator[Asked]:
    from transformers import AutoTokenizer, LxmertForQuestionAnswering

    home, data = zoo.folder("zoo/lxmert-scenes"), zoo.questions()
    model = LxmertForQuestionAnswering.from_pretrained(home).eval()
    words = AutoTokenizer.from_pretrained(home)(
        list(data.texts), padding=True, return_tensors="pt", return_token_type_ids=False
    )
    inputs = dict(words) | data.inputs()
    said = best(model, inputs, "question_answering_score")
    known = torch.tensor([model.config.label2id.get(a, -1) for a in data.answers])
    there = data.source.sum(1)
    single = (there >= 1) & (there <= data.source.shape[1] // 2)
    rows = ((said == known) & single).nonzero()[:, 0].tolist()
    for some in chunks(rows, count):
        right = data.source[some]
        yield Asked(
            model, Reading(cut(inputs, some)), Target.logit(said[some], output="question_answering_score"), REGIONS,
            tuple(f"question {i}" for i in some), tuple(f"scene {int(data.scene[i])}" for i in some),
            torch.ones_like(right), right,
        )  # fmt: skip


def objects(count: int) -> Iterator[Asked]:
    from heterogenous import found_in
    from transformers import AutoModelForObjectDetection

    model = AutoModelForObjectDetection.from_pretrained(zoo.folder("zoo/detr-scenes")).eval()
    data = zoo.detections()
    inputs = {PICTURE: data.images.permute(0, 3, 1, 2).float() / 127.5 - 1}
    queries = found_in(model, inputs, data)
    rows = (queries >= 0).nonzero().tolist()
    grid = tuple(regard.inspect(model, cut(inputs, [0])).streams[0].grid or ())
    for some in chunks(rows, count):
        at, slot = (list(c) for c in zip(*some, strict=True))
        right = holds(data.masks[at, slot], grid)  # type: ignore[arg-type]
        names = tuple(f"scene {i}, item {j}" for i, j in some)
        target = Target.detection(queries[at, slot], data.labels[at, slot])
        groups = tuple(f"scene {i}" for i in at)
        yield Asked(model, Reading(cut(inputs, at)), target, PICTURE, names, groups, torch.ones_like(right), right)


def captions(count: int) -> Iterator[Asked]:
    """Pairs, one at a time: a picture under a caption that fits it better than the caption's twin."""
    reader, data = regard.load("zoo/clip-scenes"), zoo.captions()
    regions = data.regions()
    several = data.count[data.scene] > 1
    rows = ((data.named.sum(1) == 1) & several).nonzero()[:, 0].tolist()
    for some in chunks(rows, count, 1):
        i = some[0]
        picture = data.images[int(data.scene[i])].numpy()
        with torch.no_grad():
            both = reader.model(**reader.read((picture, [data.texts[i], data.twins[i]])).inputs).logits_per_image[0]
        if both[0] <= both[1]:
            continue
        reading = reader.read((picture, data.texts[i]))
        right = holds(regions[i][None], (8, 8))
        plain = Reading(reading.inputs, special=reading.special)
        yield Asked(
            reader.model, plain, Target.similarity(), PICTURE, (f"caption {i}",), (f"scene {int(data.scene[i])}",),
            torch.ones_like(right), right,
        )  # fmt: skip


def answers(count: int) -> Iterator[Asked]:
    """Questions for a colour, which one word answers, about scenes of several items."""
    reader, data = regard.load("zoo/vlm-scenes"), zoo.answers()
    ids = reader.tokenizer.convert_tokens_to_ids
    rows = (data.of_kind("colour") & (data.count[data.scene] > 1)).nonzero()[:, 0].tolist()
    for some in chunks(rows, count, 1):
        i = some[0]
        word = data.words(i)[0]
        assert word.region is not None
        reading = reader.read((data.images[int(data.scene[i])].numpy(), data.prompts[i]))
        answer = torch.tensor([ids(word.text)])
        with torch.no_grad():
            if not torch.equal(reader.model(**reading.inputs).logits[:, -1].argmax(-1), answer):
                continue
        right = holds(word.region[None], (8, 8))
        plain = Reading(reading.inputs, special=reading.special)
        yield Asked(
            reader.model, plain, Target.next_token(answer), PICTURE, (f"answer {i}",), (f"scene {int(data.scene[i])}",),
            torch.ones_like(right), right,
        )  # fmt: skip


def atoms(count: int) -> Iterator[Asked]:
    import atoms as rxn

    archive = rxn.wheel(None)
    model, vocabulary = rxn.model_of(archive), rxn.vocabulary_of(archive)
    names = [n for n in archive.namelist() if n.startswith("tests/test_")]
    mapped = sorted({s for n in names for s in rxn.reactions_in(archive.read(n).decode())})
    every = [rxn.Questions.of(rxn.Reaction.parse(s), vocabulary) for s in mapped]
    rows = [(r, i) for r, q in enumerate(every) for i in range(len(q.asked))]
    for some in chunks(rows, count, 1):
        r, i = some[0]
        q = every[r]
        inputs = {TEXT: q.ids[i : i + 1]}
        with torch.no_grad():
            if int(model(**inputs).logits[0, q.asked[i]].argmax()) != int(q.truth[i]):
                continue
        competing = q.among["reactant atoms"][i : i + 1]
        right = torch.zeros_like(competing)
        right[0, q.origin[i]] = True
        target = Target.logit(q.truth[i : i + 1], position=q.asked[i : i + 1])
        yield Asked(
            model, Reading(inputs), target, TEXT, (f"reaction {r}, atom {i}",), (q.reaction.product,), competing, right
        )


SETS: dict[str, Callable[[int], Iterator[Asked]]] = {
    "vit-scenes": scenes,
    "bert-sentiment": sentences,
    "llama-facts": facts,
    "lxmert-scenes": questions,
    "detr-scenes": objects,
    "clip-scenes": captions,
    "vlm-scenes": answers,
    "atoms": atoms,
}
"""Name -> what yields about so many questions, some left out where the answer is wrong. A set more is one line more."""


def one_by_one(asked: Asked) -> Iterator[Asked]:
    """Its questions, each by itself, for models whose samples cannot be explained together."""
    for i, (name, group) in enumerate(zip(asked.names, asked.groups, strict=True)):
        inputs = {k: v[i : i + 1] for k, v in asked.reading.inputs.items()}
        special = {k: v[i : i + 1] for k, v in asked.reading.special.items()}
        yield replace(
            asked, reading=replace(asked.reading, inputs=inputs, special=special), names=(name,), groups=(group,),
            competing=asked.competing[i : i + 1], right=asked.right[i : i + 1],
        )  # fmt: skip


__all__ = ["SETS", "Asked", "holds"]
