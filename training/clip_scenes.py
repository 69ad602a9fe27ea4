"""Train ``zoo/clip-scenes``: a small CLIP that compares scenes of items of clothing with captions.

Run from the repository root, one core::

    python -m training.clip_scenes --data ../shared/data/fashion_mnist --out src/regard/zoo/clip-scenes

Scenes of one to four items are made on the fly from Fashion-MNIST *training* items (Xiao et al. 2017), each for about two
batches. Each comes with several captions, and each caption with a twin that differs in one thing (Yuksekgonul et al. 2023).
The loss is CLIP's (Radford et al. 2021), but for one thing: a caption is known to be true or false of every scene of the
batch, and only where it is false the two are pushed apart. Linear heads tell class and colour, and class and cell: of the
item at each patch, before the last block, from the exact masks, and from [CLS] of all items of the scene. They are thrown
away.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from regard.zoo.fact_data import Draw
from training.makers import captions as maker
from training.makers.captions import Caption, Twins, describe, truths, twins, twisted
from training.makers.crowds import CELLS, TINTS, Crowd, covered, make_crowd
from training.makers.questions import ITEMS, Sight
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
    write_picture_processor,
)

SIDE, PATCH, LENGTH = 80, 10, 24
POOL = 32
"""Batches of scenes that are kept to be shown again, with new captions."""
HARDEST = math.log(100)
"""The logarithm of the largest logit scale."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word tokenizer: lower case, stops split off, ``<bos>`` in front and ``<eos>`` at the end."""
    return word_tokenizer(
        maker.VOCABULARY,
        f"{maker.BOS} $A {maker.EOS}",
        (maker.BOS, maker.EOS),
        maker.UNKNOWN,
        bos_token=maker.BOS,
        eos_token=maker.EOS,
        pad_token=maker.PAD,
        model_max_length=LENGTH,
    )


def build() -> CLIPModel:
    """Return the untrained model: 4 blocks of width 128 for 8 x 8 patches, 3 of width 96 for words."""
    known = maker.VOCABULARY.index
    words = {
        "vocab_size": len(maker.VOCABULARY),
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "bos_token_id": known(maker.BOS),
        "eos_token_id": known(maker.EOS),
        "pad_token_id": known(maker.PAD),
    }
    pictures = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    model = CLIPModel(CLIPConfig(text_config=words, vision_config=pictures, projection_dim=128))
    nn.init.normal_(model.vision_model.embeddings.position_embedding.weight, std=0.1)  # as large as what patches show
    return model


def pixels(images: Tensor) -> Tensor:
    """Return uint8 pictures (b, height, width, 3) as the model's input (b, 3, height, width), -1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def sights(crowd: Crowd) -> list[Sight]:
    """Return what each scene shows."""
    rows = zip(crowd.classes.tolist(), crowd.tints.tolist(), strict=True)
    return [Sight(tuple(classes), tuple(tints)) for classes, tints in rows]


KNOWN = {word: i for i, word in enumerate(maker.VOCABULARY)}


def token_ids(texts: list[str]) -> Tensor:
    """Return ``input_ids`` (n, tokens) of captions, padded on the right: words see what is before them alone."""
    rows = [[KNOWN[w] for w in (maker.BOS, *text.split(), maker.EOS)] for text in texts]
    length = max(map(len, rows))
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def text_vectors(model: CLIPModel, texts: list[str], parts: int = 4) -> Tensor:
    """Return the unit vectors (n, projection) of captions, encoded in parts of like length."""
    order = sorted(range(len(texts)), key=lambda i: texts[i].count(" "))
    size = -(-len(texts) // parts)
    cut = [order[i : i + size] for i in range(0, len(texts), size)]
    rows = [model.text_projection(model.text_model(token_ids([texts[i] for i in part])).pooler_output) for part in cut]
    return F.normalize(torch.cat(rows).float(), dim=1)[torch.tensor(order).argsort()]


def scene_states(model: CLIPModel, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, of uint8 pictures, their unit vectors (b, projection), the last state of [CLS] (b, width), and the states of
    the patches (b, patches, width) before the last block.
    """
    seen = model.vision_model(pixel_values=pixels(images), output_hidden_states=True)
    vectors = F.normalize(model.visual_projection(seen.pooler_output).float(), dim=1)
    return vectors, seen.pooler_output.float(), seen.hidden_states[-2][:, 1:].float()


@dataclass(frozen=True)
class Told:
    """Captions of a batch of scenes, each text once: ``texts``; ``scene`` and ``caption`` int64 (n,), the pairs that were
    made for each other; ``true`` bool (scenes, texts), every pair.
    """

    texts: list[str]
    scene: Tensor
    caption: Tensor
    true: Tensor


def told(seen: list[Sight], each: int, draw: Draw) -> Told:
    """Describe every scene ``each`` times, the kinds in turn, and twist every caption."""
    column: dict[Caption, int] = {}
    pairs = []
    for scene, sight in enumerate(seen):
        start = draw.below(len(maker.KINDS))
        for i in range(each):
            caption = describe(sight, maker.KINDS[(start + i) % len(maker.KINDS)], draw)
            pairs.append((scene, column.setdefault(caption, len(column))))
            column.setdefault(twisted(caption, sight, draw), len(column))
    scene, caption = torch.tensor(pairs).T
    return Told([c.text for c in column], scene, caption, truths(seen, list(column)))


def contrast(logits: Tensor, of: Told) -> Tensor:
    """Return CLIP's loss on ``logits`` (scenes, texts), both ways, with what is false alone to tell a pair from."""
    wrong = logits.masked_fill(of.true, -1e4)
    own = logits[of.scene, of.caption]
    texts = F.softplus(wrong.logsumexp(1)[of.scene] - own)
    scenes = F.softplus(wrong.logsumexp(0)[of.caption] - own)
    return (texts.mean() + scenes.mean()) / 2


class Heads(nn.Module):
    """What is taught to the patches, of the item there, if there is one, and to [CLS], of all items: class and colour, and
    class and cell.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        kinds = {"coloured": len(ITEMS) * len(TINTS), "placed": len(ITEMS) * len(CELLS)}
        self.patch = nn.ModuleDict({name: nn.Linear(width, kind + 1) for name, kind in kinds.items()})  # the last: none
        self.scene = nn.ModuleDict({name: nn.Linear(width, kind) for name, kind in kinds.items()})

    def forward(self, patches: Tensor, scenes: Tensor, crowd: Crowd) -> Tensor:
        """Return the loss of all heads on ``patches`` (b, patches, width), before the last block, and ``scenes`` (b, width).

        A patch is to tell the share of each item in its pixels.
        """
        share = F.avg_pool2d(crowd.masks.float(), PATCH).flatten(2)  # (b, cells, patches)
        item = crowd.classes.clamp(min=0)
        kinds = {
            "coloured": item * len(TINTS) + crowd.tints.clamp(min=0),
            "placed": item * len(CELLS) + torch.arange(4),
        }
        total = torch.zeros(())
        for name, kind in kinds.items():
            said = self.scene[name](scenes)
            hot = F.one_hot(kind, said.shape[1]) * (crowd.classes >= 0)[:, :, None]  # (b, cells, kinds)
            wanted = torch.einsum("bcp,bck->bpk", share, hot.float())
            wanted = torch.cat([wanted, 1 - wanted.sum(2, keepdim=True)], 2)
            total = total + F.cross_entropy(self.patch[name](patches).flatten(0, 1), wanted.flatten(0, 1))
            total = total + F.binary_cross_entropy_with_logits(said, hot.amax(1).float(), reduction="sum") / (
                10 * len(said)
            )
        return total


def optimisers(named: list[tuple[str, nn.Parameter]], rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon (Jordan et al. 2024) for the matrices inside the blocks and AdamW for all other weights."""
    inner = [p for name, p in named if ".encoder." in name and p.ndim == 2]
    outer = [p for name, p in named if not (".encoder." in name and p.ndim == 2)]
    return [
        torch.optim.Muon(inner, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def step_loss(model: CLIPModel, heads: Heads, crowd: Crowd, captions: Told) -> tuple[Tensor, Tensor]:
    """Return the losses of the pairs and of the heads."""
    with torch.autocast("cpu", torch.bfloat16):
        scenes, pooled, patches = scene_states(model, crowd.images)
        texts = text_vectors(model, captions.texts)
    return contrast(model.logit_scale.exp() * scenes @ texts.T, captions), heads(patches, pooled, crowd)


class Pool:
    """Batches of scenes: every second time a fresh one, else one that was shown before, out of POOL."""

    def __init__(self, items: Items, count: int, gen: torch.Generator, draw: Draw) -> None:
        self.items, self.count, self.gen, self.draw = items, count, gen, draw
        self.kept: list[Crowd] = []
        self.asked = 0

    def fresh(self) -> Crowd:
        """Make a batch."""
        return make_crowd(self.items, self.count, self.gen, fewest=1)

    def next(self) -> Crowd:
        """Return a batch."""
        self.asked += 1
        if self.asked % 2 or len(self.kept) < POOL:
            self.kept.append(self.fresh())
        if len(self.kept) > POOL:
            return self.kept.pop(self.draw.below(len(self.kept)))
        return self.draw.one(self.kept)


def update(
    loss: Tensor,
    weights: list[nn.Parameter],
    both: list[torch.optim.Optimizer],
    schedules: list[torch.optim.lr_scheduler.LambdaLR],
) -> None:
    """Go one step down, gradients clipped to length 1."""
    for optimiser in both:
        optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(weights, 1.0)
    for optimiser, schedule in zip(both, schedules, strict=True):
        optimiser.step()
        schedule.step()


def train(items: Items, args: argparse.Namespace, gen: torch.Generator) -> CLIPModel:
    """Train on ``args.steps`` batches of scenes and fresh captions; print the losses and the logit scale on the way."""
    model, draw = build(), Draw(args.seed)
    heads = Heads(model.config.vision_config.hidden_size)
    named = [pair for module in (model, heads) for pair in module.named_parameters()]
    both = optimisers(named, args.rate)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: warm_cosine(step, args.steps)) for o in both]
    pool = Pool(items, args.scenes, gen, draw)
    start, sums = time.perf_counter(), torch.zeros(3)
    model.train()
    model.set_attn_implementation("eager")  # in bfloat16 on a CPU the backward pass of the fused one is slow
    for step in range(1, args.steps + 1):
        crowd = pool.next()
        pairs, taught = step_loss(model, heads, crowd, told(sights(crowd), args.each, draw))
        update(pairs + taught, [p for _, p in named], both, schedules)
        with torch.no_grad():
            model.logit_scale.clamp_(max=HARDEST)
        sums += torch.stack([pairs, taught, model.logit_scale.exp()]).detach()
        if step % 50 == 0:
            said = " ".join(f"{n} {x:.3f}" for n, x in zip(("pairs", "heads", "scale"), sums / 50, strict=True))
            print(f"{step}/{args.steps} {said} {time.perf_counter() - start:.0f} s", flush=True)
            sums = torch.zeros(3)
        if step % 500 == 0 and args.keep:
            save(args.keep, model)
    model.set_attn_implementation("sdpa")
    return model.eval()


@torch.no_grad()
def encoded(model: CLIPModel, images: Tensor) -> Tensor:
    """Return the unit vectors (n, projection) of uint8 pictures (n, 80, 80, 3)."""
    return torch.cat([scene_states(model, part)[0] for part in torch.split(images, 100)])


@torch.no_grad()
def likeness(model: CLIPModel, scenes: Tensor, texts: list[str]) -> Tensor:
    """Return the cosine of each of ``scenes`` (n, projection) with each text, (n, texts)."""
    return scenes @ text_vectors(model, texts).T


def top_prompts(model: CLIPModel, scenes: Tensor, items: Tensor, colours: Tensor) -> dict[str, Tensor]:
    """Return for each of ``scenes`` (n, projection) whether the best of some prompts is true, and how the classes are ranked.

    ``items``, ``colours`` int64 (n, 4), -1 where there is none. *item*: whether the best of "a <class>" names an item;
    *coloured_item*: the best of "a <colour> <class>"; *auc*: the share of pairs of a class that is there and one that is not
    whose prompts are in this order.
    """
    plain = likeness(model, scenes, [f"a {name}" for name in ITEMS])
    coloured = likeness(model, scenes, [f"a {tint} {name}" for name in ITEMS for tint in TINTS])
    here = F.one_hot(items + 1, len(ITEMS) + 1)[:, :, 1:].any(1)
    both = (items * len(TINTS) + colours).where(items >= 0, torch.tensor(-1))
    ordered = (plain[:, :, None] > plain[:, None, :]) & here[:, :, None] & ~here[:, None, :]
    return {
        "item": here.gather(1, plain.argmax(1, keepdim=True))[:, 0].float(),
        "coloured_item": (both == coloured.argmax(1, keepdim=True)).any(1).float(),
        "auc": ordered.sum((1, 2)) / (here.sum(1) * (~here).sum(1)),
    }


@dataclass(frozen=True)
class Described:
    """Captions of scenes and their twins: ``scene`` int64 (n,), the scene of each of ``pairs``."""

    scene: Tensor
    pairs: list[Twins]

    @classmethod
    def of(cls, seen: list[Sight], draw: Draw) -> Described:
        """Describe every scene."""
        rows = [(scene, pair) for scene, sight in enumerate(seen) for pair in twins(sight, draw)]
        return cls(torch.tensor([scene for scene, _ in rows]), [pair for _, pair in rows])


def preferred(model: CLIPModel, scenes: Tensor, scene: Tensor, texts: Sequence[str], wrong: Sequence[str]) -> Tensor:
    """Return whether each text is closer to its row ``scene`` of ``scenes`` than its twin in ``wrong``, bool (texts,)."""
    known = sorted({*texts, *wrong})
    column = {text: i for i, text in enumerate(known)}
    like = likeness(model, scenes, known)
    true, false = (like[scene, torch.tensor([column[t] for t in said])] for said in (texts, wrong))
    return true > false


def measure_some(
    model: CLIPModel, items: Items, number: int, gen: torch.Generator, draw: Draw
) -> tuple[dict[str, Tensor], list[tuple[str, bool]]]:
    """Return, of 200 scenes of ``number`` items, their ``top_prompts``, and each caption's kind and whether it is preferred."""
    crowd = make_crowd(items, 200, gen, fewest=number, most=number)
    said = Described.of(sights(crowd), draw)
    texts, wrong = [pair.caption.text for pair in said.pairs], [pair.twin.text for pair in said.pairs]
    scenes = encoded(model, crowd.images)
    right = preferred(model, scenes, said.scene, texts, wrong).tolist()
    return top_prompts(model, scenes, crowd.classes, crowd.tints), [
        (pair.kind, r) for pair, r in zip(said.pairs, right, strict=True)
    ]


def measure(model: CLIPModel, items: Items, gen: torch.Generator, draw: Draw, scenes: int = 2000) -> dict[str, object]:
    """Return accuracies on ``scenes`` scenes of each number of items, all made of unseen ones."""
    top: dict[str, dict[str, float]] = {"item": {}, "coloured_item": {}, "auc": {}}
    hits: dict[str, list[bool]] = {kind: [] for kind in maker.TWIN_KINDS}
    for number in range(1, 5):
        parts = [measure_some(model, items, number, gen, draw) for _ in range(scenes // 200)]
        for name, by_number in top.items():
            by_number[str(number)] = torch.cat([found[name] for found, _ in parts]).mean().item()
        for kind, right in (pair for _, pairs in parts for pair in pairs):
            hits[kind].append(right)
    above = {kind: sum(right) / len(right) for kind, right in hits.items()}
    return {
        "test_scenes_of_each_number": scenes,
        "item": sum(top["item"].values()) / 4,
        "coloured_item": sum(top["coloured_item"].values()) / 4,
        "colours_of_a_pair": above["pair"],
        "relation": above["relation"],
        **{f"{name}_by_number_of_items": by_number for name, by_number in top.items()},
        "test_captions": {kind: len(right) for kind, right in hits.items()},
        "above_twin": above,
    }


def worth_showing(crowd: Crowd) -> Tensor:
    """Return the scenes, indices, whose clutter touches no item and whose items all differ in class or in colour."""
    clean = (covered(crowd.masks.any(1), crowd.clutter) == 0).all(1)
    both = (crowd.classes * len(TINTS) + crowd.tints).where(crowd.classes >= 0, -1 - torch.arange(4)).sort(1).values
    return (clean & (both[:, 1:] != both[:, :-1]).all(1)).nonzero()[:, 0]


def bundle(folder: Path, items: Items, each: int, gen: torch.Generator, draw: Draw) -> None:
    """Write ``each`` scenes of every number of items, and captions of them with their twins."""
    crowds = [make_crowd(items, 5 * each, gen, fewest=number, most=number) for number in range(1, 5)]
    crowds = [crowd.select(worth_showing(crowd)[:each]) for crowd in crowds]
    images, masks, classes, tints = (
        torch.cat([getattr(crowd, name) for crowd in crowds]) for name in ("images", "masks", "classes", "tints")
    )
    said = Described.of([sight for crowd in crowds for sight in sights(crowd)], draw)
    data = {
        "images": images,
        "mask_bits": torch.from_numpy(np.packbits(masks.any(1).numpy(), axis=-1)),
        "items": classes,
        "colours": tints,
        "scene": said.scene,
        "named": torch.tensor([[cell in pair.cells for cell in range(4)] for pair in said.pairs]),
    }
    save_file(data, folder / "captions.safetensors")
    texts = [{"text": pair.caption.text, "twin": pair.twin.text, "kind": pair.kind} for pair in said.pairs]
    head = {"items": ITEMS, "colours": TINTS, "license": "MIT (Fashion-MNIST items, Zalando SE)"}
    write_json(folder / "captions.json", {**head, "captions": texts})
    write_notice(folder)


def bundled_accuracy(folder: Path, model: CLIPModel) -> dict[str, object]:
    """Return the same accuracies on the bundled scenes and captions, read back from ``folder``."""
    from regard.zoo.caption_data import read_captions

    known = read_captions(folder)
    scenes = encoded(model, known.images)
    top = top_prompts(model, scenes, known.items, known.colours)
    right = preferred(model, scenes, known.scene, known.texts, known.twins).float()
    return {
        "bundled_scenes": len(known.images),
        "bundled_item_by_number_of_items": {str(n): top["item"][known.count == n].mean().item() for n in range(1, 5)},
        "bundled_captions": {kind: int(known.of_kind(kind).sum()) for kind in maker.TWIN_KINDS},
        "bundled_above_twin": {kind: right[known.of_kind(kind)].mean().item() for kind in maker.TWIN_KINDS},
    }


def save(folder: Path, model: CLIPModel) -> None:
    """Write the weights and the configuration, the tokenizer and the picture processor."""
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    write_picture_processor(folder, "CLIPImageProcessor", SIDE, do_center_crop=False)


def card_of(model: CLIPModel, accuracy: dict[str, object], command: str, seconds: float) -> Card:
    """Return the model card."""
    words, pictures = model.config.text_config, model.config.vision_config
    return {
        "name": "zoo/clip-scenes",
        "what": "A small CLIP that compares scenes of one to four tinted items of clothing with captions: a bag, a red bag, "
        "a bag at the top left, a red sandal and a blue bag, a red sandal left of a blue bag. Which items each caption is "
        "about is known, to the pixel.",
        "task": "comparing pictures with texts",
        "parameters": parameters(model),
        "architecture": f"CLIPModel: {pictures.num_hidden_layers} blocks of width {pictures.hidden_size} for "
        f"{SIDE // PATCH} x {SIDE // PATCH} patches of {PATCH} px, MLP {pictures.intermediate_size}; "
        f"{words.num_hidden_layers} blocks of width {words.hidden_size} for words, MLP {words.intermediate_size}; "
        f"{pictures.num_attention_heads} heads, {words.vocab_size} words, at most {LENGTH} tokens, projection "
        f"{model.config.projection_dim}; logit scale learned, {model.logit_scale.exp().item():.1f}",
        "accuracy": accuracy,
        "what_is_measured": "Scenes of unseen items. item: of the eight prompts 'a <class>' the best names an item that is in "
        "the scene; coloured_item: of the 48 prompts 'a <colour> <class>' the best names one by class and colour; auc: the "
        "share of pairs of a class in the scene and one that is not whose prompts are in this order; each by the number of "
        "items, and the mean of these. above_twin: a true caption is closer to the scene than a false one that differs in one "
        "thing (chance 0.5). item: another class; colour: 'a red sandal' and 'a blue sandal' where something else is blue; "
        "place: 'at the top left' and 'at the top right'; pair, colours_of_a_pair: 'a red sandal and a blue bag' and the "
        "colours swapped; relation: 'left of' and 'right of', 'above' and 'below'; list: all of three or four items, and the "
        "colours of two of them swapped",
        "known_answers": "regard.zoo.captions(): regions()[c] are exactly the pixels of the items that caption c is about, and "
        "it is true of no other item of the scene; twins[c] is false of the scene. redirections() are pairs of captions about "
        "different items of one scene. No clutter box holds a pixel of an item. The fragments around the items are inner crops "
        "of classes that are not in the scene, in any colour; an item caption's twin may name the class of one.",
        "limits": "Knows eight items, six colours, four places and the wordings of training.makers.captions, no other: no "
        "number, no 'no', no 'only', no verb. Says how alike a scene and a caption are, not whether the caption is true: there "
        "is no threshold. Left of means in the left half, with the other one in the right half. How well colours, places and "
        "relations are bound to items is what the twins measure: better than by chance, not surely. Where a scene holds "
        "one item alone, one prompt alone is right, and is the best less often; with several items a guess is right more often "
        "too. Pullover and Shirt are left out, as in zoo/vit-scenes; T-shirts are called shirts. The heads on the patches saw "
        "the masks in training, so the model may sit on the items more firmly than one taught by captions alone.",
        "bundled": "captions.safetensors, captions.json: 80 scenes of Fashion-MNIST test items, 20 of each number of items, "
        "drawn once from a seed, not selected but for clutter that touches no item and for items that all differ in class or "
        "in colour",
        "data": "made by training.makers (crowds, captions) from Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, Zalando SE), MIT",
        "training": "CLIP's loss on scenes and captions, each caption with a twin that differs in one thing; a pair that is "
        "true is never a negative. Besides linear heads, thrown away, that tell class and colour, and class and cell, of the "
        "item at each patch, before the last block, and of all items of the scene, from [CLS]. In bfloat16 but "
        "for the weights and the losses. Muon for the blocks' matrices, AdamW for the rest, warm-up and cosine; "
        "every batch of scenes is used about twice, with new captions. Nothing is said about attention.",
        "license": "weights and captions Apache-2.0; items in the scenes MIT, copyright Zalando SE",
        "retrain": command,
        "seconds": round(seconds),
    }


def publish(model: CLIPModel, args: argparse.Namespace, seconds: float) -> Card:
    """Measure on unseen items, bundle captions, write the card, move all to ``args.out``; return the card."""
    new = fresh(args.out)
    save(new, model)
    items = load_items(args.data / "test.npz")
    accuracy = measure(model, items, torch.Generator().manual_seed(args.seed + 1), Draw(args.seed + 1))
    bundle(new, items, 20, torch.Generator().manual_seed(args.seed + 2), Draw(args.seed + 2))
    accuracy |= bundled_accuracy(new, model)
    said = command(args, "zoo/clip-scenes", ("steps", "scenes", "each", "rate"), data="fashion_mnist")
    card = card_of(model, accuracy, said, seconds)
    write_card(new, card)
    swap(new, args.out)
    return card


def main() -> None:
    """Train on the training items, then publish what the model does on the test items."""
    parser = options("zoo/clip-scenes", 2e-3, "Fashion-MNIST train.npz and test.npz")
    parser.add_argument("--keep", type=Path, help="folder for the weights on the way, every 500 steps")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--scenes", type=int, default=48, help="scenes to a batch")
    parser.add_argument("--each", type=int, default=4, help="captions to a scene")
    args = parser.parse_args()
    gen = seeded(args)
    start = time.perf_counter()
    model = train(load_items(args.data / "train.npz"), args, gen)
    print(publish(model, args, time.perf_counter() - start)["accuracy"])


if __name__ == "__main__":
    main()
