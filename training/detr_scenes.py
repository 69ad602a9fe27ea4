"""Train ``zoo/detr-scenes``: a small DETR that finds the items of clothing in a scene.

Run from the repository root, one core::

    python -m training.detr_scenes --data ../shared/data/fashion_mnist --out src/regard/zoo/detr-scenes

Scenes are made on the fly from Fashion-MNIST *training* items (Xiao et al. 2017) and never repeat. First the
convolutional backbone alone learns to say, at each cell of its 10 x 10 grid, which class is there and how far the sides of
its box are; its batch statistics are then frozen, as DETR wants them, and the heads thrown away. Then the whole model
learns by the set loss of Carion et al. 2020 at every block of the decoder: the Hungarian assignment of objects to queries,
cross-entropy, and L1 and generalised IoU (Rezatofighi et al. 2019) of the boxes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DetrConfig, DetrForObjectDetection, ResNetBackbone, ResNetConfig

from regard.evaluation.protocols.box_matching import Boxes, areas, average_precision, overlaps, predictions
from regard.explanation.boxes import corners
from training.makers.crowds import Crowd, covered, make_crowd
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
    write_card,
    write_json,
    write_notice,
    write_picture_processor,
)
from training.vit_scenes import pixels

SIDE, STRIDE, QUERIES = 80, 8, 8
L1, GIOU, EMPTY = 5.0, 2.0, 0.2
"""Weights of the boxes' losses beside the class, and of the cross-entropy of queries without an object."""


def backbone_config() -> ResNetConfig:
    """Return the configuration of the backbone: stride 8, 64 channels."""
    return ResNetConfig(
        embedding_size=24, hidden_sizes=[32, 64], depths=[2, 2], layer_type="basic", out_features=["stage2"]
    )


def build(names: tuple[str, ...]) -> DetrForObjectDetection:
    """Return the untrained model: width 64, 2 blocks in the encoder, 3 in the decoder, 8 queries."""
    return DetrForObjectDetection(
        DetrConfig(
            backbone_config=backbone_config(),
            d_model=64,
            encoder_layers=2,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=128,
            decoder_ffn_dim=128,
            num_queries=QUERIES,
            dropout=0.0,
            auxiliary_loss=True,
            init_std=0.05,
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
        )
    )


# --- the backbone alone ---------------------------------------------------------------------------------------------


class DenseHeads(nn.Module):
    """At each cell of the backbone's grid: the class of the item there, none last, and the sides of its box."""

    def __init__(self, channels: int, kinds: int) -> None:
        super().__init__()
        self.classes, self.sides = nn.Conv2d(channels, kinds + 1, 1), nn.Conv2d(channels, 4, 1)

    def forward(self, grid: Tensor, crowd: Crowd) -> Tensor:
        """Return the loss of ``grid`` (b, channels, 10, 10): class shares everywhere, sides where an item's box is."""
        share = F.avg_pool2d(crowd.masks.float(), STRIDE)  # (b, 4, 10, 10)
        kinds = self.classes.out_channels - 1
        hot = F.one_hot(crowd.classes + 1, kinds + 1)[:, :, 1:].float()
        wanted = torch.einsum("bihw,bik->bkhw", share, hot)
        wanted = torch.cat([wanted, 1 - wanted.sum(1, keepdim=True)], 1)
        sides, inside = sides_of(crowd)
        error = (self.sides(grid) - sides).abs().mean(1)
        loss: Tensor = F.cross_entropy(self.classes(grid), wanted) + (error * inside).sum() / inside.sum()
        return loss


def sides_of(crowd: Crowd) -> tuple[Tensor, Tensor]:
    """Return, seen from the middle of each cell, where the sides of the box around it are (b, 4, 10, 10), in tens of
    pixels, and whether there is a box, bool (b, 10, 10).
    """
    middle = torch.arange(SIDE // STRIDE) * STRIDE + STRIDE / 2
    y, x = middle[:, None].expand(-1, len(middle)), middle.expand(len(middle), -1)
    away = (crowd.boxes[:, :, :, None, None] - torch.stack([x, y, x, y])) / 10  # (b, item, side, 10, 10)
    within = (away[:, :, :2] < 0).all(2) & (away[:, :, 2:] > 0).all(2)
    return (away * within[:, :, None]).sum(1), within.any(1)  # boxes of a scene do not overlap


def pretrain(items: Items, args: argparse.Namespace, gen: torch.Generator) -> ResNetBackbone:
    """Train the backbone alone for ``args.first`` steps."""
    backbone = ResNetBackbone(backbone_config())
    heads = DenseHeads(backbone.channels[-1], len(items.names))
    weights = [*backbone.parameters(), *heads.parameters()]
    run = Run(weights, [{"params": weights, "lr": 3e-3}], args.first)
    backbone.train()
    for step in range(1, args.first + 1):
        crowd = make_crowd(items, args.batch, gen)
        run.step(heads(backbone(pixels(crowd.images)).feature_maps[-1], crowd))
        run.tell(step)
    return backbone.eval()


class Run:
    """AdamW with warm-up and cosine, and a line of progress every 100 steps."""

    def __init__(self, weights: list[nn.Parameter], groups: list[dict[str, object]], steps: int) -> None:
        self.weights, self.steps = weights, steps
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: warm_cosine(step, steps))
        self.start, self.total = time.perf_counter(), 0.0

    def step(self, loss: Tensor) -> None:
        """Take one step down ``loss``."""
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.total += loss.item()

    def tell(self, step: int, more: str = "") -> None:
        """Print the mean loss of the last 100 steps."""
        if step % 100 == 0:
            passed = time.perf_counter() - self.start
            print(f"{step}/{self.steps} loss {self.total / 100:.3f} {more} {passed:.0f} s", flush=True)
            self.total = 0.0


# --- the set loss ---------------------------------------------------------------------------------------------------


def centred(boxes: Tensor) -> Tensor:
    """Turn (left, top, right, bottom) into (centre x, centre y, width, height), (..., 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def generalised(first: Tensor, second: Tensor) -> Tensor:
    """Return the generalised IoU (..., n, m) of boxes (left, top, right, bottom), (..., n, 4) and (..., m, 4)."""
    a, b = first[..., :, None, :], second[..., None, :, :]
    hull = areas(torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1))
    iou = overlaps(first, second)
    union = (areas(a) + areas(b)) / (1 + iou)  # since shared = iou * union, and union = a + b - shared
    return iou - (hull - union) / hull.clamp(min=1e-12)


@torch.no_grad()
def assign(logits: Tensor, found: Tensor, labels: Tensor, true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (scene, query, object) of the cheapest assignment of all objects of each scene to queries.

    ``logits`` (b, q, classes + 1), ``found`` (b, q, 4) centred; ``labels`` (b, n), -1 where there is no object, ``true``
    (b, n, 4) centred.
    """
    chance = logits.softmax(-1).gather(2, labels.clamp(min=0)[:, None].expand(-1, logits.shape[1], -1))
    cost = L1 * torch.cdist(found, true, p=1) - GIOU * generalised(corners(found), corners(true)) - chance
    rows = []
    for scene, (each, here) in enumerate(zip(cost.numpy(), labels.numpy() >= 0, strict=True)):
        objects = np.flatnonzero(here)
        queries, picks = linear_sum_assignment(each[:, objects])
        rows += [(scene, query, objects[pick]) for query, pick in zip(queries, picks, strict=True)]
    scenes, queries, things = torch.tensor(np.array(rows)).T
    return scenes, queries, things


def set_loss(logits: Tensor, found: Tensor, labels: Tensor, true: Tensor) -> Tensor:
    """Return the loss of one block's predictions; arguments as of ``assign``."""
    scenes, queries, things = assign(logits, found, labels, true)
    kinds = logits.shape[-1] - 1
    wanted = torch.full(logits.shape[:2], kinds)
    wanted[scenes, queries] = labels[scenes, things]
    weight = logits.new_ones(kinds + 1)
    weight[-1] = EMPTY
    guess, target = found[scenes, queries], true[scenes, things]
    giou = generalised(corners(guess)[:, None], corners(target)[:, None]).mean()
    boxes = L1 * (guess - target).abs().sum(-1).mean() + GIOU * (1 - giou)
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight) + boxes


def loss_of(model: DetrForObjectDetection, crowd: Crowd) -> Tensor:
    """Return the set loss, the mean over the blocks of the decoder."""
    states = model.model(pixel_values=pixels(crowd.images)).intermediate_hidden_states  # (blocks, b, q, width)
    logits, found = model.class_labels_classifier(states), model.bbox_predictor(states).sigmoid()
    true = centred(crowd.boxes / SIDE)
    each = [set_loss(*block, crowd.classes, true) for block in zip(logits, found, strict=True)]
    return torch.stack(each).mean()


def train(model: DetrForObjectDetection, items: Items, args: argparse.Namespace, gen: torch.Generator) -> None:
    """Train on ``args.steps`` batches of fresh scenes; the backbone, which knows much already, more slowly."""
    inner = [p.requires_grad_() for p in model.model.backbone.parameters()]  # DETR freezes it all when it is built
    known = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in known]
    run = Run(
        [*inner, *outer], [{"params": inner, "lr": args.rate / 5}, {"params": outer, "lr": args.rate}], args.steps
    )
    model.train()
    for step in range(1, args.steps + 1):
        run.step(loss_of(model, make_crowd(items, args.batch, gen)))
        seen = f"mAP {score(model, make_crowd(items, 200, gen))['map50']:.3f}" if step % 500 == 0 else ""
        run.tell(step, seen)
        if step % 500 == 0 and args.keep:
            save(args.keep, model)
    model.eval()


# --- what it can do -------------------------------------------------------------------------------------------------


@torch.no_grad()
def detect(model: DetrForObjectDetection, images: Tensor) -> list[Boxes]:
    """Return every query's box and likeliest class in uint8 pictures (n, 80, 80, 3), as fractions; the mode is put back."""
    mode = model.training
    model.eval()
    found = []
    for part in torch.split(images, 100):
        out = model(pixel_values=pixels(part))
        found += predictions(out.logits, out.pred_boxes)
    model.train(mode)
    return found


def truth(crowd: Crowd) -> list[Boxes]:
    """Return the items of each scene, boxes as fractions."""
    rows = zip(crowd.boxes / SIDE, crowd.classes, crowd.classes >= 0, strict=True)
    return [Boxes(boxes[here], classes[here]) for boxes, classes, here in rows]


def score(model: DetrForObjectDetection, crowd: Crowd) -> dict[str, object]:
    """Return mAP at IoU 0.5 and 0.75, and the AP of each class at 0.5."""
    found, true = detect(model, crowd.images), truth(crowd)
    each, strict = (average_precision(found, true, threshold) for threshold in (0.5, 0.75))
    names = model.config.id2label
    return {
        "map50": sum(each.values()) / len(each),
        "map75": sum(strict.values()) / len(strict),
        "ap50": {names[k]: ap for k, ap in each.items()},
    }


def bundle(folder: Path, items: Items, scenes: int, gen: torch.Generator) -> Crowd:
    """Write ``scenes`` scenes, none of whose clutter touches an item, with their masks as bits."""
    crowd = make_crowd(items, 2 * scenes, gen)
    clean = (covered(crowd.masks.any(1), crowd.clutter) == 0).all(1).nonzero()[:scenes, 0]
    crowd = crowd.select(clean)
    order = (crowd.classes < 0).long().argsort(dim=1, stable=True)  # items first
    rows = torch.arange(len(crowd))[:, None]
    bits = torch.from_numpy(np.packbits(crowd.masks[rows, order].numpy(), axis=-1))
    boxes = (crowd.boxes / SIDE)[rows, order]
    data = {"images": crowd.images, "mask_bits": bits, "labels": crowd.classes[rows, order], "boxes": boxes}
    save_file(data, folder / "scenes.safetensors")
    write_json(folder / "scenes.json", {"names": list(items.names), "license": "MIT (Fashion-MNIST items, Zalando SE)"})
    write_notice(folder)
    return crowd


def save(folder: Path, model: DetrForObjectDetection) -> None:
    """Write weights, configuration and the picture processor (80 x 80 px, mean and deviation 0.5) to ``folder``."""
    model.save_pretrained(folder)
    write_picture_processor(folder, "DetrImageProcessor", SIDE, do_pad=False)


def card_of(model: DetrForObjectDetection, accuracy: dict[str, object], command: str, seconds: float) -> Card:
    """Return the model card."""
    config = model.config
    return {
        "name": "zoo/detr-scenes",
        "what": "A small DETR that finds the items of clothing in a scene of two to four. Every scene comes with the exact "
        "mask of each item, so the map of a found object can be checked against the pixels that were there.",
        "task": "object detection",
        "classes": [config.id2label[k] for k in range(config.num_labels)],
        "parameters": parameters(model),
        "architecture": f"DetrForObjectDetection: residual backbone of 4 blocks (stride {STRIDE}, 64 channels), "
        f"{config.encoder_layers} blocks in the encoder, {config.decoder_layers} in the decoder, width {config.d_model}, "
        f"{config.encoder_attention_heads} heads, MLP {config.encoder_ffn_dim}, {QUERIES} queries, {SIDE} px",
        "accuracy": accuracy,
        "known_answers": "regard.zoo.detections(): masks[i, j] is True on exactly the pixels of item j, boxes[i, j] is tight "
        "around them. Items do not overlap, nothing is painted over them, and no clutter box touches one.",
        "limits": "At most four items, one in each quarter of the picture: queries can tell themselves apart by the quarter. "
        "The backbone saw the masks in its own training, so the model may sit on the items more firmly than one that "
        "was taught by boxes alone. Pullover and Shirt are left out, as in zoo/vit-scenes.",
        "bundled": "scenes.safetensors: 60 scenes of Fashion-MNIST test items, drawn once from a seed, not selected but "
        "for clutter that touches no item",
        "data": "made by training.makers.crowds from Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, Zalando SE), MIT",
        "training": "the backbone alone on dense labels; then the whole by the set loss (class, L1, generalised IoU) at "
        "every block of the decoder; AdamW, warm-up and cosine",
        "license": "weights Apache-2.0; items in the scenes MIT, copyright Zalando SE",
        "retrain": command,
        "seconds": round(seconds),
    }


def publish(model: DetrForObjectDetection, items: Items, args: argparse.Namespace, seconds: float) -> Card:
    """Measure on scenes of unseen ``items``, bundle scenes, write the card, move all to ``args.out``; return the card."""
    new = fresh(args.out)
    save(new, model)
    measured = score(model, make_crowd(items, 2000, torch.Generator().manual_seed(args.seed + 1)))
    bundled = score(model, bundle(new, items, 60, torch.Generator().manual_seed(args.seed + 2)))
    accuracy = {"test_scenes": 2000, **measured, "bundled_scenes": 60, "bundled_map50": bundled["map50"]}
    said = command(args, "zoo/detr-scenes", ("first", "steps", "batch", "rate"), data="fashion_mnist")
    card = card_of(model, accuracy, said, seconds)
    write_card(new, card)
    swap(new, args.out)
    return card


def main() -> None:
    """Train on the training items, then publish what the model does on the test items."""
    parser = options("zoo/detr-scenes", 1e-3, "Fashion-MNIST train.npz and test.npz")
    parser.add_argument("--keep", type=Path, help="folder for the weights on the way, every 500 steps")
    parser.add_argument("--first", type=int, default=1500, help="steps of the backbone alone")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    gen = seeded(args)
    start = time.perf_counter()
    items = load_items(args.data / "train.npz")
    model = build(items.names)
    backbone = pretrain(items, args, gen)
    model.model.backbone.model.load_state_dict(backbone.state_dict())
    train(model, items, args, gen)
    print(publish(model, load_items(args.data / "test.npz"), args, time.perf_counter() - start)["accuracy"])


if __name__ == "__main__":
    main()
