"""Train ``zoo/lxmert-scenes``: a small LXMERT that answers questions about scenes of items of clothing.

Run from the repository root, one core::

    python -m training.lxmert_scenes --data ../shared/data/fashion_mnist --out src/regard/zoo/lxmert-scenes

Scenes are made on the fly from Fashion-MNIST *training* items (Xiao et al. 2017) and never repeat; each is asked about
several times. The region encoder is learned together with the model: from the answers, and from two linear heads on its
features that name the class and the colour of the item in a box, or clutter. For the first part of the steps two more heads
tell from the states of the regions, after the first cross block which one the question names, and after the second which
one the answer is read off: without them the model never learned to tell, in a relation, the item beside the one that is
named from the one diagonally opposite. All heads are thrown away. Nothing is said about attention.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LxmertConfig, LxmertForQuestionAnswering, PreTrainedTokenizerFast

from regard.zoo.fact_data import Draw
from regard.zoo.region_encoder import FEATURES, RegionEncoder
from training.makers import crowds
from training.makers import questions as maker
from training.makers.crowds import Crowd, Regions, covered, make_crowd
from training.makers.questions import Question, Sight
from training.makers.scenes import Items, load_items
from training.store import (
    Card,
    command,
    fresh,
    options,
    parameters,
    seeded,
    swap,
    warm_cosine,
    word_tokenizer,
    write_card,
    write_json,
    write_notice,
)

LENGTH = 9
POINTED = 0.7
"""The part of the steps in which the states of the regions are taught."""
MIX = ("relation", "item", "colour", "relation", "place", "count", "relation", "side")
"""Kinds of training questions in turn: what is hard to learn comes more often."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word tokenizer: lower case, stops split off, ``[CLS]`` in front and ``[SEP]`` at the end."""
    return word_tokenizer(
        maker.VOCABULARY,
        f"{maker.CLS} $A {maker.SEP}",
        (maker.CLS, maker.SEP),
        maker.UNKNOWN,
        cls_token=maker.CLS,
        sep_token=maker.SEP,
        pad_token=maker.PAD,
        model_max_length=LENGTH,
    )


def build() -> LxmertForQuestionAnswering:
    """Return the untrained model: width 64, 2 blocks for words, 1 for regions, 3 across."""
    return LxmertForQuestionAnswering(
        LxmertConfig(
            vocab_size=len(maker.VOCABULARY),
            hidden_size=64,
            intermediate_size=128,
            num_attention_heads=4,
            l_layers=2,
            r_layers=1,
            x_layers=3,
            num_qa_labels=len(maker.ANSWERS),
            visual_feat_dim=FEATURES,
            max_position_embeddings=LENGTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.08,
            pad_token_id=0,
            id2label=dict(enumerate(maker.ANSWERS)),
            label2id={answer: i for i, answer in enumerate(maker.ANSWERS)},
        )
    )


@dataclass(frozen=True)
class Asked:
    """Questions as tensors: ``ids``, ``mask`` (q, 9), padded on the right; ``scene``, ``answer`` int64 (q,), -1 if none;
    bool (q, 4), by cell: ``named`` by the question, and the answer's ``source``.
    """

    ids: Tensor
    mask: Tensor
    scene: Tensor
    answer: Tensor
    named: Tensor
    source: Tensor


def sights(crowd: Crowd) -> list[Sight]:
    """Return what each scene shows."""
    rows = zip(crowd.classes.tolist(), crowd.tints.tolist(), strict=True)
    return [Sight(tuple(classes), tuple(tints)) for classes, tints in rows]


def asked(questions: list[tuple[int, Question]]) -> Asked:
    """Return pairs of scene and question as tensors."""
    known = {word: i for i, word in enumerate(maker.VOCABULARY)}
    rows = [[known[w] for w in (maker.CLS, *q.words, maker.SEP)] for _, q in questions]
    ids = torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])
    answers = [maker.ANSWERS.index(q.answer) if q.answer else -1 for _, q in questions]
    named = [set(q.evidence) - set(q.source) or q.source for _, q in questions]
    marks = [
        torch.tensor([[cell in of for cell in range(4)] for of in cells])
        for cells in (named, [q.source for _, q in questions])
    ]
    return Asked(ids, (ids > 0).long(), torch.tensor([s for s, _ in questions]), torch.tensor(answers), *marks)


def training_questions(seen: list[Sight], each: int, draw: Draw) -> list[tuple[int, Question]]:
    """Ask ``each`` questions about every scene, of the kinds of MIX in turn, starting anywhere."""
    found = []
    for scene, sight in enumerate(seen):
        start = draw.below(len(MIX))
        for i in range(each):
            question = maker.ask(sight, MIX[(start + i) % len(MIX)], draw)
            if question is not None:
                found.append((scene, question))
    return found


@dataclass(frozen=True)
class Answered:
    """``logits`` (q, answers), and the ``states`` of the regions (q, 8, width) after each cross block."""

    logits: Tensor
    states: tuple[Tensor, ...]


def answer(model: LxmertForQuestionAnswering, features: Tensor, boxes: Tensor, questions: Asked) -> Answered:
    """Answer for ``features`` (s, 8, 64) and ``boxes`` (s, 8, 4) of the scenes."""
    out = model(
        input_ids=questions.ids,
        attention_mask=questions.mask,
        visual_feats=features[questions.scene],
        visual_pos=boxes[questions.scene],
        output_hidden_states=True,
    )
    return Answered(out.question_answering_score, out.vision_hidden_states[-model.config.x_layers :])


class Heads(nn.Module):
    """What the features are taught to tell, besides answers: the class and the colour in a box, or clutter (last)."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Linear(FEATURES, len(maker.ITEMS) + 1)
        self.colour = nn.Linear(FEATURES, len(crowds.TINTS) + 1)

    def forward(self, features: Tensor, regions: Regions) -> Tensor:
        """Return the mean loss of both heads on ``features`` (s, 8, 64)."""
        return sum(
            (  # type: ignore[return-value]
                F.cross_entropy(head(features).flatten(0, 1), (wanted % head.out_features).flatten())  # -1: the last
                for head, wanted in ((self.item, regions.classes), (self.colour, regions.tints))
            )
        )


class Pointers(nn.Module):
    """What the states of the regions are taught to tell: which is named (block 1), which is the source (block 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.named, self.source = nn.Linear(width, 2), nn.Linear(width, 2)

    def forward(self, states: tuple[Tensor, ...], questions: Asked, regions: Regions) -> Tensor:
        """Return the loss of both heads on the first two ``states`` (q, 8, width)."""
        cells = regions.cells[questions.scene]  # (q, 8)
        losses = []
        for head, state, marks in (
            (self.named, states[0], questions.named),
            (self.source, states[1], questions.source),
        ):
            wanted = marks.gather(1, cells.clamp(min=0)) & (cells >= 0)
            losses.append(F.cross_entropy(head(state).flatten(0, 1), wanted.long().flatten()))
        return torch.stack(losses).sum()


def optimisers(named: list[tuple[str, nn.Parameter]], rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon (Jordan et al. 2024) for the matrices inside the blocks and AdamW for all other weights."""
    inner = [p for name, p in named if ".encoder." in name and p.ndim == 2]
    outer = [p for name, p in named if not (".encoder." in name and p.ndim == 2)]
    return [
        torch.optim.Muon(inner, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def train(
    items: Items, args: argparse.Namespace, gen: torch.Generator
) -> tuple[LxmertForQuestionAnswering, RegionEncoder]:
    """Train on ``args.steps`` batches of fresh scenes and questions; print the loss and the training accuracy."""
    model, encoder, heads, draw = build(), RegionEncoder(), Heads(), Draw(args.seed)
    pointers = Pointers(model.config.hidden_size)
    named = [pair for module in (model, encoder, heads, pointers) for pair in module.named_parameters()]
    weights = [p for _, p in named]
    both = optimisers(named, args.rate)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: warm_cosine(step, args.steps)) for o in both]
    start, total, right = time.perf_counter(), 0.0, 0.0
    model.train()
    for step in range(1, args.steps + 1):
        crowd = make_crowd(items, args.scenes, gen)
        regions = crowds.regions(crowd, gen)
        questions = asked(training_questions(sights(crowd), args.each, draw))
        features = encoder(crowd.images, regions.boxes)
        out = answer(model, features, regions.boxes, questions)
        loss = F.cross_entropy(out.logits, questions.answer) + 0.3 * heads(features, regions)
        if step <= POINTED * args.steps:
            loss = loss + pointers(out.states, questions, regions)
        for optimiser in both:
            optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        for optimiser, schedule in zip(both, schedules, strict=True):
            optimiser.step()
            schedule.step()
        total += loss.item()
        right += (out.logits.argmax(1) == questions.answer).float().mean().item()
        if step % 100 == 0:
            passed = time.perf_counter() - start
            print(f"{step}/{args.steps} loss {total / 100:.3f} right {right / 100:.3f} {passed:.0f} s", flush=True)
            total = right = 0.0
        if step % 500 == 0 and args.keep:
            save(args.keep, model, encoder)
    return model.eval(), encoder.eval()


def all_questions(seen: list[Sight], draw: Draw) -> list[tuple[int, Question]]:
    """Ask one question of every kind about every scene that allows it."""
    found = [(scene, maker.ask(sight, kind, draw)) for scene, sight in enumerate(seen) for kind in maker.KINDS]
    return [(scene, question) for scene, question in found if question is not None]


@torch.no_grad()
def measure(
    model: LxmertForQuestionAnswering, encoder: RegionEncoder, items: Items, gen: torch.Generator, draw: Draw
) -> dict[str, object]:
    """Return the accuracy on 2000 scenes made of unseen items, one question of each kind where the scene allows it."""
    hits: dict[str, list[float]] = {kind: [] for kind in maker.KINDS}
    for _ in range(10):
        crowd = make_crowd(items, 200, gen)
        regions = crowds.regions(crowd, gen)
        rows = all_questions(sights(crowd), draw)
        questions = asked(rows)
        said = answer(model, encoder(crowd.images, regions.boxes), regions.boxes, questions).logits.argmax(1)
        for (_, question), right in zip(rows, (said == questions.answer).tolist(), strict=True):
            hits[question.kind].append(right)
    every = [right for kind in hits.values() for right in kind]
    return {
        "test_scenes": 2000,
        "test_questions": len(every),
        "test": sum(every) / len(every),
        "per_kind": {kind: sum(right) / len(right) for kind, right in hits.items()},
    }


def unasked(question: Question) -> tuple[str, ...]:
    """Return the question's words without the one that names what is asked for."""
    return tuple(word for i, word in enumerate(question.words) if i != question.asked)


def pairs(questions: list[Question]) -> list[list[Question]]:
    """Return all pairs of ``questions`` that differ in the asked word alone, and in the answer and its source."""
    named = [q for q in questions if q.asked >= 0]
    return [
        [first, second]
        for first, second in itertools.combinations(named, 2)
        if (first.asked, unasked(first)) == (second.asked, unasked(second))
        and first.answer != second.answer
        and first.source != second.source
    ]


def sole(sight: Sight, question: Question) -> bool:
    """Whether nothing but the source shows the answer: no other item has the class, or the colour, that is the answer."""
    values = {"item": sight.classes, "place": sight.classes, "relation": sight.classes, "colour": sight.tints}
    shown = values.get(question.kind)
    return shown is None or shown.count(shown[question.source[0]]) == 1


def sole_questions(sight: Sight, kind: str) -> list[Question]:
    """Return the questions of ``kind`` whose answer nothing but the source shows."""
    return [q for q in maker.ASK[kind](sight) if sole(sight, q)]


def worth_asking(crowd: Crowd) -> Tensor:
    """Return the scenes, indices, whose clutter touches no item and that allow questions of every kind."""
    clean = (covered(crowd.masks.any(1), crowd.clutter) == 0).all(1).tolist()
    full = [all(sole_questions(sight, kind) for kind in maker.KINDS) for sight in sights(crowd)]
    return torch.tensor([i for i, (a, b) in enumerate(zip(clean, full, strict=True)) if a and b])


def bundled_questions(sight: Sight, counts: Counter[str], draw: Draw) -> list[Question]:
    """Return three questions about a scene, two of them a pair if it allows one, of the kinds that are fewest so far."""
    found: list[Question] = []
    for wanted in (2, 1, 1):
        if len(found) == 3:
            break
        for kind in sorted(maker.KINDS, key=lambda kind: counts[kind]):
            every = [q for q in sole_questions(sight, kind) if q not in found]
            choices = pairs(every) if wanted == 2 else [[q] for q in every]
            if choices:
                found += draw.one(choices)
                counts[kind] += wanted
                break
    return found


def bundle(folder: Path, items: Items, scenes: int, gen: torch.Generator, draw: Draw) -> None:
    """Write ``scenes`` scenes that are worth asking about, and their questions."""
    crowd = make_crowd(items, 5 * scenes, gen)
    crowd = crowd.select(worth_asking(crowd)[:scenes])
    regions = crowds.regions(crowd, gen)
    rows, counts = [], Counter[str]()
    for scene, sight in enumerate(sights(crowd)):
        shown = {*sight.classes, *crowd.strangers[scene].tolist()}
        missing = [k for k in range(len(maker.ITEMS)) if k not in shown]
        questions = [*bundled_questions(sight, counts, draw), draw.one(maker.absent_questions(missing))]
        rows += [(scene, q) for q in questions]
    cells = regions.cells[[scene for scene, _ in rows]]
    data = {
        "images": crowd.images,
        "boxes": regions.boxes,
        "items": regions.classes,
        "colours": regions.tints,
        "scene": torch.tensor([scene for scene, _ in rows]),
        "evidence": torch.stack(
            [torch.isin(c, torch.tensor(q.evidence)) for c, (_, q) in zip(cells, rows, strict=True)]
        ),
        "source": torch.stack([torch.isin(c, torch.tensor(q.source)) for c, (_, q) in zip(cells, rows, strict=True)]),
        "asked": torch.tensor([q.asked + 1 if q.asked >= 0 else -1 for _, q in rows]),
    }
    save_file(data, folder / "questions.safetensors")
    texts = [{"text": " ".join(q.words), "answer": q.answer, "kind": q.kind} for _, q in rows]
    head = {"items": maker.ITEMS, "colours": crowds.TINTS, "license": "MIT (Fashion-MNIST items, Zalando SE)"}
    write_json(folder / "questions.json", {**head, "questions": texts})
    write_notice(folder)


def save(folder: Path, model: LxmertForQuestionAnswering, encoder: RegionEncoder) -> None:
    """Write the weights and the configuration of both, and the tokenizer."""
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    save_file(encoder.state_dict(), folder / "regions.safetensors")


def bundled_accuracy(folder: Path, model: LxmertForQuestionAnswering) -> dict[str, object]:
    """Return the accuracy on the bundled questions that have an answer, read back from ``folder``."""
    from regard.zoo.question_data import read_questions

    questions = read_questions(folder)
    questions = questions.select(~questions.absent)
    words = make_tokenizer()(list(questions.texts), padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        said = model(**words, **questions.inputs()).question_answering_score.argmax(1)
    right = torch.tensor(
        [model.config.id2label[int(k)] == a for k, a in zip(said, questions.answers, strict=True)]
    ).float()
    each = {kind: right[questions.of_kind(kind)].mean().item() for kind in maker.KINDS}
    return {"bundled_questions": len(right), "bundled": right.mean().item(), "bundled_per_kind": each}


def card_of(model: LxmertForQuestionAnswering, accuracy: dict[str, object], command: str, seconds: float) -> Card:
    """Return the model card."""
    config = model.config
    return {
        "name": "zoo/lxmert-scenes",
        "what": "A small LXMERT that answers questions about scenes of two to four tinted items of clothing: what, "
        "where, which colour, how many, what is left of the bag. It sees 8 boxes, items and clutter; which of them each "
        "answer must rest on is known.",
        "task": "visual question answering",
        "answers": list(maker.ANSWERS),
        "parameters": parameters(model),
        "region_encoder_parameters": parameters(RegionEncoder()),
        "architecture": f"LxmertForQuestionAnswering: {config.l_layers} blocks for words, {config.r_layers} for regions, "
        f"{config.x_layers} across, width {config.hidden_size}, {config.num_attention_heads} heads, MLP "
        f"{config.intermediate_size}, {config.vocab_size} words; region features ({FEATURES}) by three convolutions and a "
        "linear map of the 24 x 24 crop of a box (regions.safetensors; regard.zoo.questions() computes them)",
        "accuracy": accuracy,
        "known_answers": "regard.zoo.questions(): evidence[q] are the regions that answer q cannot be known without, "
        "source[q] those it is read off (in a relation the item beside, not the one named), asked[q] the word that names "
        "what is asked for. Where the answer is a class or a colour, no other item of the scene has it, and no clutter box "
        "holds a pixel of an item. redirections() are pairs of "
        "questions about one scene that differ in the asked word alone and rest on other regions. That the evidence is "
        "needed is a fact about the scenes; a block may have moved it between regions before the words read it.",
        "limits": "Knows eight items, six colours and the wordings of training.makers.questions, no other. It was never "
        "asked for what is not there, and gives some answer nevertheless: those questions (absent) are for looking at "
        "maps, not at answers. The box tells a part of the class (trousers are tall and narrow): to take a region away, "
        "mask it or replace its box too, not its features alone. Pullover and Shirt are left out, as in zoo/vit-scenes; "
        "T-shirts are called shirts.",
        "bundled": "questions.safetensors, questions.json: scenes of Fashion-MNIST test items, drawn once from a seed, "
        "not selected but for clutter that touches no item, and for allowing questions of every kind; of each scene three "
        "questions, two of them a pair if there is one, and an absent one",
        "data": "made by training.makers (crowds, questions) from Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, "
        "Zalando SE), MIT",
        "training": "Muon for the blocks' matrices, AdamW for the rest, warm-up and cosine; loss on the answers, on class "
        "and colour of each region's features, and for the first 70 % of the steps on what each region's state tells: after "
        "the first cross block whether the question names it, after the second whether the answer is read off it. Nothing is "
        "said about attention, but the model may sit on the evidence more firmly than one taught by answers alone.",
        "license": "weights and questions Apache-2.0; items in the scenes MIT, copyright Zalando SE",
        "retrain": command,
        "seconds": round(seconds),
    }


def publish(
    model: LxmertForQuestionAnswering, encoder: RegionEncoder, args: argparse.Namespace, seconds: float
) -> Card:
    """Measure on unseen items, bundle questions, write the card, move all to ``args.out``; return the card."""
    new = fresh(args.out)
    save(new, model, encoder)
    items = load_items(args.data / "test.npz")
    accuracy = measure(model, encoder, items, torch.Generator().manual_seed(args.seed + 1), Draw(args.seed + 1))
    bundle(new, items, 60, torch.Generator().manual_seed(args.seed + 2), Draw(args.seed + 2))
    accuracy |= bundled_accuracy(new, model)
    said = command(args, "zoo/lxmert-scenes", ("steps", "scenes", "each", "rate"), data="fashion_mnist")
    card = card_of(model, accuracy, said, seconds)
    write_card(new, card)
    swap(new, args.out)
    return card


def main() -> None:
    """Train on the training items, then publish what the model does on the test items."""
    parser = options("zoo/lxmert-scenes", 2e-3, "Fashion-MNIST train.npz and test.npz")
    parser.add_argument("--keep", type=Path, help="folder for the weights on the way, every 500 steps")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--scenes", type=int, default=32, help="scenes to a batch")
    parser.add_argument("--each", type=int, default=4, help="questions to a scene")
    args = parser.parse_args()
    gen = seeded(args)
    start = time.perf_counter()
    model, encoder = train(load_items(args.data / "train.npz"), args, gen)
    print(publish(model, encoder, args, time.perf_counter() - start)["accuracy"])


if __name__ == "__main__":
    main()
