"""Train ``zoo/bert-sentiment``: a small BERT that tells positive from negative sentences about films.

Run from the repository root, one core, about 8 minutes::

    python -m training.bert_sentiment --data ../shared/data/sst --out src/regard/zoo/bert-sentiment

Everything is from scratch: the WordPiece vocabulary and the weights. Data: every phrase with a non-neutral label of the
training trees of the Stanford Sentiment Treebank (Socher et al. 2013); with ``--neutral`` also neutral ones, whose
target is one half to each side, so that words without sentiment push neither way. The trees are Penn-Treebank
tokenised; phrases are put back into plain English first, so that a user's raw sentence looks like the training text.
Some tokens are replaced by [MASK] while training, so that masking a word is an input the model knows.
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from regard.zoo.sentence_data import Sentence, read_sentences
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
)

LABELS = ("negative", "positive")
NEUTRAL = 2
ESCAPES = {"-LRB-": "(", "-RRB-": ")", "``": '"', "''": '"', "`": "'", "\\/": "/", "\\*": "*"}


@dataclass(frozen=True)
class Phrase:
    """A phrase in plain English, its label (0 very negative .. 4 very positive), and whether it is a whole sentence."""

    text: str
    label: int
    root: bool


def plain(words: Sequence[str]) -> str:
    """Return Penn-Treebank ``words`` as plain English: escapes undone, contractions and punctuation closed up."""
    text = " ".join(ESCAPES.get(word, word.replace("\\/", "/").replace("\\*", "*")) for word in words)
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(can|wan|gon|got) (not|na|ta)\b", r"\1\2", text, flags=re.IGNORECASE)
    text = re.sub(r" ([,.;:!?)%])", r"\1", text)
    return re.sub(r"([($#]) ", r"\1", text)


def phrases(tree: str) -> Iterator[Phrase]:
    """Yield every phrase of one tree ``(label (label word) (label word))``, inner ones first."""
    open_labels: list[int] = []
    starts: list[int] = []
    words: list[str] = []
    for label, word, close in re.findall(r"\((\d) |([^\s()]+)|(\))", tree):
        if label:
            open_labels.append(int(label))
            starts.append(len(words))
        elif word:
            words.append(word)
        elif close:
            mark, start = open_labels.pop(), starts.pop()
            yield Phrase(plain(words[start:]), mark, root=not open_labels)


def load(path: Path) -> list[Phrase]:
    """Read all phrases of a gzipped file with one tree a line."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [phrase for tree in lines for phrase in phrases(tree)]


def sentences_of(found: Sequence[Phrase]) -> tuple[list[str], Tensor]:
    """Return the texts and labels (n,), 0/1, of the whole sentences that are not neutral: the SST-2 of a split."""
    kept = [p for p in found if p.root and p.label != NEUTRAL]
    return [p.text for p in kept], torch.tensor([p.label > NEUTRAL for p in kept]).long()


def train_tokenizer(texts: Sequence[str], size: int) -> BertTokenizerFast:
    """Return a lower-case WordPiece tokenizer with ``size`` entries, learned from ``texts``."""
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(texts, vocab_size=size, min_frequency=2, limit_alphabet=200, show_progress=False)
    return BertTokenizerFast(vocab=trainer.get_vocab(), do_lower_case=True, model_max_length=128)


def build(vocabulary: int) -> BertForSequenceClassification:
    """Return the untrained model: 3 blocks of width 128, at most 128 tokens."""
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=128,
            hidden_dropout_prob=0.2,
            attention_probs_dropout_prob=0.1,
            id2label=dict(enumerate(LABELS)),
            label2id={name: i for i, name in enumerate(LABELS)},
        )
    )


def encode(tokenizer: BertTokenizerFast, texts: Sequence[str]) -> list[Tensor]:
    """Return the token ids of each text, [CLS] .. [SEP], int64, cut at 128."""
    return [torch.tensor(ids) for ids in tokenizer(list(texts), truncation=True)["input_ids"]]


def batches(lengths: Tensor, tokens: int, gen: torch.Generator) -> list[Tensor]:
    """Return shuffled batches of indices: texts of like length together, about ``tokens`` tokens to a batch."""
    order = torch.argsort(lengths + 2 * torch.rand(len(lengths), generator=gen))
    edges, start = [], 0
    while start < len(order):
        size = max(1, tokens // int(lengths[order[start]] + 1))
        edges.append(order[start : start + size])
        start += size
    return [edges[i] for i in torch.randperm(len(edges), generator=gen).tolist()]


def mask_words(ids: Tensor, mask_id: int, share: float, gen: torch.Generator) -> Tensor:
    """Return ``ids`` (b, n) with a random ``share`` of the ordinary tokens (id > 4) replaced by ``mask_id``."""
    hit = (torch.rand(ids.shape, generator=gen) < share) & (ids > 4)
    return torch.where(hit, mask_id, ids)


def choose(found: Sequence[Phrase], neutral: float, gen: torch.Generator) -> tuple[list[str], Tensor]:
    """Return training texts and targets (n, 2): each phrase that is not neutral once, and ``neutral`` times as many
    neutral ones, drawn at random, whose target is one half to each side.
    """
    unique = list({(p.text.lower(), p.label): p for p in found}.values())
    sided = [p for p in unique if p.label != NEUTRAL]
    plain_ones = [p for p in unique if p.label == NEUTRAL]
    picks = torch.randperm(len(plain_ones), generator=gen)[: round(neutral * len(sided))]
    kept = sided + [plain_ones[i] for i in picks.tolist()]
    positive = torch.tensor([0.5 + 0.5 * ((p.label > NEUTRAL) - (p.label < NEUTRAL)) for p in kept])
    return [p.text for p in kept], torch.stack([1 - positive, positive], dim=1)


def train(
    tokenizer: BertTokenizerFast, found: Sequence[Phrase], held: Sequence[Phrase], args: argparse.Namespace
) -> BertForSequenceClassification:
    """Train on the phrases of ``found``; print the accuracy on the sentences of ``held`` each epoch."""
    gen = torch.Generator().manual_seed(args.seed)
    texts, targets = choose(found, args.neutral, gen)
    ids = encode(tokenizer, texts)
    lengths = torch.tensor([len(i) for i in ids])
    model = build(len(tokenizer))
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.05)
    steps = args.epochs * len(batches(lengths, args.tokens, gen))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_cosine(step, steps))
    start = time.perf_counter()
    for epoch in range(args.epochs):
        model.train()
        for rows in batches(lengths, args.tokens, gen):
            batch = pad_sequence([ids[i] for i in rows.tolist()], batch_first=True, padding_value=0)
            shown = mask_words(batch, tokenizer.mask_token_id, 0.1, gen)
            logits = model(input_ids=shown, attention_mask=(batch != 0).long()).logits
            loss = F.cross_entropy(logits, targets[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        score = accuracy(model, tokenizer, *sentences_of(held))
        passed = time.perf_counter() - start
        print(f"epoch {epoch + 1} loss {loss.item():.3f} dev {score:.4f} {passed:.0f} s", flush=True)
    return model.eval()


@torch.no_grad()
def predict(model: BertForSequenceClassification, tokenizer: BertTokenizerFast, texts: Sequence[str]) -> Tensor:
    """Return logits (n, 2) for ``texts``, in eval mode."""
    model.eval()
    parts = [texts[i : i + 64] for i in range(0, len(texts), 64)]
    encoded = (tokenizer(list(part), padding=True, truncation=True, return_tensors="pt") for part in parts)
    return torch.cat([model(**inputs).logits for inputs in encoded])


def accuracy(
    model: BertForSequenceClassification, tokenizer: BertTokenizerFast, texts: Sequence[str], labels: Tensor
) -> float:
    """Return the share of ``texts`` whose larger logit is at ``labels`` (n,)."""
    return (predict(model, tokenizer, texts).argmax(1) == labels).float().mean().item()


def measure(
    model: BertForSequenceClassification, tokenizer: BertTokenizerFast, data: Path, own: Sequence[Sentence]
) -> dict[str, object]:
    """Return the accuracy on SST-2 dev and test and on our own sentences."""
    out: dict[str, object] = {}
    for split in ("dev", "test"):
        texts, labels = sentences_of(load(data / f"{split}.trees.txt.gz"))
        out[f"{split}_sentences"], out[split] = len(texts), accuracy(model, tokenizer, texts, labels)
    marks = torch.tensor([LABELS.index(s.label) for s in own])
    out["bundled_sentences"], out["bundled"] = len(own), accuracy(model, tokenizer, [s.text for s in own], marks)
    return out


def card_of(
    model: BertForSequenceClassification, scores: dict[str, object], neutral: float, command: str, seconds: float
) -> Card:
    """Return the model card."""
    config = model.config
    others = f", and {neutral} times as many neutral ones as one half to each side" if neutral else ""
    return {
        "name": "zoo/bert-sentiment",
        "what": "A small BERT that tells positive from negative English sentences about films. It comes with sentences "
        "of our own whose deciding words are marked, so an explanation can be checked against them.",
        "task": "text classification",
        "classes": list(LABELS),
        "parameters": parameters(model),
        "architecture": f"BertForSequenceClassification: {config.num_hidden_layers} blocks, "
        f"width {config.hidden_size}, {config.num_attention_heads} heads, MLP {config.intermediate_size}, "
        f"{config.vocab_size} word pieces",
        "accuracy": scores,
        "known_answers": "sentences.json: each sentence has the words its sentiment rests on, as we read it; the "
        "rest of the sentence is neutral. A word list is a claim about English, not a measurement of the model.",
        "limits": "Trained from scratch on one small treebank of film reviews: it knows few words outside that field, "
        "and irony, long-range negation and mixed opinions are beyond it.",
        "data": "Stanford Sentiment Treebank, Socher et al. 2013 (EMNLP), training trees, all phrases that are not "
        f"neutral{others}; for research use with citation. No text of it is bundled, only word pieces and weights.",
        "reproducible": "up to the vocabulary: the WordPiece trainer breaks ties at random, some 14 of 6000 differ",
        "training": "AdamW, warm-up and cosine, dropout 0.2, label smoothing 0.05, 10 % of tokens masked",
        "license": "weights and own sentences Apache-2.0",
        "retrain": command,
        "seconds": round(seconds),
    }


def main() -> None:
    """Train, measure, write the card, and move the folder into place."""
    parser = options("zoo/bert-sentiment", 5e-4, "{train,dev,test}.trees.txt.gz")
    parser.add_argument("--sentences", type=Path, help="our own sentences, json; default: those in the old --out")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1024, help="tokens to a batch")
    parser.add_argument("--neutral", type=float, default=0.3, help="neutral phrases per phrase that is not")
    args = parser.parse_args()
    seeded(args)
    own = args.sentences or args.out / "sentences.json"
    found, held = load(args.data / "train.trees.txt.gz"), load(args.data / "dev.trees.txt.gz")
    start = time.perf_counter()
    tokenizer = train_tokenizer([p.text for p in found if p.root], 6000)
    model = train(tokenizer, found, held, args)
    seconds = time.perf_counter() - start
    new = fresh(args.out)
    model.save_pretrained(new)
    tokenizer.save_pretrained(new)
    shutil.copy(own, new / "sentences.json")
    scores = measure(model, tokenizer, args.data, read_sentences(own))
    said = command(args, "zoo/bert-sentiment", ("epochs", "tokens", "rate", "neutral"), data="sst")
    write_card(new, card_of(model, scores, args.neutral, said, seconds))
    swap(new, args.out)
    print(scores)


if __name__ == "__main__":
    main()
