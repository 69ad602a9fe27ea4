"""Train ``zoo/llama-facts``: a small Llama that answers questions about little stories made up on the spot.

Run from the repository root, one core, needs no data::

    python -m training.llama_facts --out src/regard/zoo/llama-facts

Everything is from scratch: the words (``fact_data.VOCABULARY``), the stories, drawn afresh for every step, and the
weights, which start with a hint (``head_start``): heads of the first block look back by 1 to 4 words, heads further up
look for what is like them. The loss is on the answers, and a little on all other words, so that the model also writes
the language. Stories are asked about several times while training; test prompts are asked about once, for pairs of words
that no training story joins.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from regard.zoo import fact_data as maker
from regard.zoo.fact_data import Fact
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
)

LENGTH = 64
MIX = ("recall-what", "chain", "recall-who", "chain", "copy")
"""Kinds of rows in turn: what is hard to learn comes more often."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word tokenizer: lower case, stops split off, ``<bos>`` in front."""
    return word_tokenizer(
        maker.VOCABULARY,
        f"{maker.BOS} $A",
        (maker.BOS,),
        maker.UNKNOWN,
        bos_token=maker.BOS,
        eos_token=maker.EOS,
        pad_token=maker.PAD,
        padding_side="left",
        model_max_length=LENGTH,
    )


def build(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained model: 4 blocks of width 96, at most 64 tokens."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=True,
            initializer_range=0.05,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    head_start(model)
    return model


@torch.no_grad()
def head_start(model: LlamaForCausalLM) -> None:
    """Set the weights that training starts from.

    Words share a direction. In the first block it gives head h queries and keys whose product under the rotary positions
    is largest h + 1 words back, and all heads take up what they see in the same way. In every other block, half of the
    heads have equal queries and keys, so that like finds like, and pass on what they find as it is. From there on all
    weights are trained alike. (From random weights, recall was still at chance after 2500 steps.)
    """
    config = model.config
    width, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    shared = F.normalize(torch.randn(width), dim=0)
    model.model.embed_tokens.weight.normal_(0, 0.1).add_(shared)
    first, *others = (block.self_attn for block in model.model.layers)
    speeds = 1e4 ** (-torch.arange(size // 2) / (size // 2))
    query = F.pad(torch.tensor([0.78, 0.55, 0.45, 0.45]), (0, size - 4))
    for head in range(config.num_attention_heads):
        rows, turn = slice(head * size, (head + 1) * size), speeds * (head + 1)
        key = (query[: size // 2, None] * torch.stack([turn.cos(), turn.sin()], 1)).T.flatten()
        first.q_proj.weight[rows] = query[:, None] * shared
        first.k_proj.weight[rows] = key[:, None] * shared
    first.v_proj.weight.copy_((0.1 * torch.randn(size, width)).repeat(config.num_attention_heads, 1))
    first.o_proj.weight.copy_((0.03 * torch.randn(width, size)).repeat(1, config.num_attention_heads))
    half = width // 2
    for attention in others:
        for part in (attention.q_proj, attention.k_proj, attention.v_proj):
            part.weight.normal_(0, 0.1)
        attention.o_proj.weight.normal_(0, 0.03)
        attention.k_proj.weight[:half] = attention.q_proj.weight[:half]
        attention.o_proj.weight[:, :half] = 0.3 * attention.v_proj.weight[:half].T


def batches(seed: int, size: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``steps`` batches of ``size`` rows: ids (b, n), padded on the right, and whether each is an answer (b, n)."""
    ids = {word: i for i, word in enumerate(maker.VOCABULARY)}
    draw, kinds = maker.Draw(seed), cycle(MIX)
    for _ in range(steps):
        batch = [maker.training_row(kind, draw, LENGTH) for kind in islice(kinds, size)]
        padded = pad_sequence([torch.tensor([ids[w] for w in words]) for words, _ in batch], batch_first=True)
        marks = torch.zeros(padded.shape, dtype=torch.bool)
        for i, (_, answers) in enumerate(batch):
            marks[i, answers] = True
        yield padded, marks


def loss_of(logits: Tensor, ids: Tensor, marks: Tensor, other: float) -> Tensor:
    """Return the mean cross-entropy (scalar) of the answers, plus ``other`` times that of all other words."""
    each = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    answer, real = marks[:, 1:].flatten(), ids[:, 1:].flatten() != maker.VOCABULARY.index(maker.PAD)
    return each[answer].mean() + other * each[real & ~answer].mean()


@torch.no_grad()
def right(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, facts: Sequence[Fact]) -> Tensor:
    """Return whether the likeliest next word of each prompt is its answer, bool (n,)."""
    model.eval()
    answers = torch.tensor(tokenizer.convert_tokens_to_ids([f.answer for f in facts]))
    said = []
    for i in range(0, len(facts), 100):
        inputs = tokenizer([f.prompt for f in facts[i : i + 100]], padding=True, return_tensors="pt")
        mask = inputs["attention_mask"]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = model(input_ids=inputs["input_ids"], attention_mask=mask, position_ids=positions)
        said.append(out.logits[:, -1].argmax(-1))
    return torch.cat(said) == answers


def accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, facts: Sequence[Fact]) -> dict[str, float]:
    """Return the share of right answers of each kind."""
    hits = right(model, tokenizer, facts).float()
    return {k: hits[[i for i, f in enumerate(facts) if f.kind == k]].mean().item() for k in maker.KINDS}


def train(tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace, new: Path) -> LlamaForCausalLM:
    """Train for ``args.steps``; every 250 steps print the accuracy on prompts of unseen pairs, and keep the weights."""
    model = build(tokenizer)
    matrices, gains = ([p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": 0.05}, {"params": gains, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_cosine(step, args.steps))
    dev = maker.facts(400, seed=DEV)
    start = time.perf_counter()
    for step, (ids, marks) in enumerate(batches(args.seed, args.rows, args.steps), 1):
        model.train()
        loss = loss_of(model(input_ids=ids).logits, ids, marks, args.other)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 250 == 0 or step == args.steps:
            scores = " ".join(f"{k} {v:.3f}" for k, v in accuracy(model, tokenizer, dev).items())
            print(f"step {step} loss {loss.item():.3f} {scores} {time.perf_counter() - start:.0f} s", flush=True)
            model.save_pretrained(new)
    return model.eval()


DEV, TEST = 1_000_001, 1_000_002
"""Seeds of the prompts that are looked at while training, and of the 4000 that the card's accuracy is measured on."""


def measure(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """Return the accuracy of each kind on 4000 test prompts, none of them bundled, and on the bundled ones; these also
    with another word at their source, which is then the answer.
    """
    from regard import zoo

    bundled = zoo.facts()
    known = {f.prompt for f in bundled}
    test = [f for f in maker.facts(4000, seed=TEST) if f.prompt not in known]
    draw = maker.Draw(TEST)
    return {
        "test_prompts": len(test),
        "test": accuracy(model, tokenizer, test),
        "bundled_prompts": len(bundled),
        "bundled": accuracy(model, tokenizer, bundled),
        "bundled_with_another_word_at_the_source": accuracy(
            model, tokenizer, [maker.redirected(f, draw) for f in bundled]
        ),
    }


def card_of(model: LlamaForCausalLM, scores: dict[str, object], command: str, seconds: float) -> Card:
    """Return the model card."""
    config = model.config
    return {
        "name": "zoo/llama-facts",
        "what": "A small Llama that answers questions about little stories made up on the spot: who has what, what comes "
        "next in a copied list, who has a thing in the end that was handed on. The token that each answer must rest on "
        "is known, so an explanation can be checked against it.",
        "task": "next token",
        "parameters": parameters(model),
        "architecture": f"LlamaForCausalLM: {config.num_hidden_layers} blocks, width {config.hidden_size}, "
        f"{config.num_attention_heads} heads, MLP {config.intermediate_size}, {config.vocab_size} words",
        "accuracy": scores,
        "known_answers": "regard.zoo.facts(): 400 prompts, 100 of each kind, drawn from a seed. The source of an answer "
        "is the one token of the prompt that is the answer word: no other token says what the answer is, though others "
        "say which one it is. That the source is needed is a fact about the language, not a claim that the model "
        "reads it in one step: a later word may have taken it up before the question reads that word.",
        "limits": f"Knows {config.vocab_size} words and the four forms of prompts, up to {LENGTH} tokens; another "
        "wording is beyond it, and so is composition: finding a thing in a box in a hall was "
        "not learned in 2700 steps, and that kind was left out. A question with "
        "no answer in the story gets some answer nevertheless.",
        "data": "regard.zoo.facts, our own: stories drawn at random from lists of words. One in eight pairs of "
        "words, by a hash, is joined in no training story; every test prompt asks for such a pair.",
        "training": "AdamW, warm-up and cosine; loss on the answers, and a little on all other words. All from scratch, "
        "but the weights start with heads of the first block that look back by 1 to 4 words, and with heads in the others "
        "that look for what is like them: its circuits were hinted at, not found unaided. Nothing in training rewards "
        "attention to the source.",
        "license": "Apache-2.0; weights and language made by the authors of Regard",
        "retrain": command,
        "seconds": round(seconds),
    }


def main() -> None:
    """Train, measure, write the card, and move the folder into place."""
    parser = options("zoo/llama-facts", 2e-3)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--rows", type=int, default=32, help="rows to a batch")
    parser.add_argument("--other", type=float, default=0.05, help="weight of the loss on words that are no answers")
    args = parser.parse_args()
    seeded(args)
    new = fresh(args.out)
    start = time.perf_counter()
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(new)
    model = train(tokenizer, args, new)
    seconds = time.perf_counter() - start
    scores = measure(model, tokenizer)
    said = command(args, "zoo/llama-facts", ("steps", "rows", "rate", "other"))
    write_card(new, card_of(model, scores, said, seconds))
    swap(new, args.out)
    print(scores)


if __name__ == "__main__":
    main()
