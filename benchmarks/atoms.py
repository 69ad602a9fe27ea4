"""Does the map point at the atom that a product's atom came from? A model that nobody here made, with a known answer.

RXNMapper (Schwaller et al., Science Advances 2021; MIT) is an ALBERT of twelve layers that learned chemical reactions by
filling in masked tokens. Nobody told it which atom of the reactants becomes which atom of the product, yet its attention
knows. Its wheel holds the weights and, in its tests, reactions whose atoms are numbered. Each numbered atom of a product is a
question: its token is masked, the logit of the true token there is explained, and the answer is the atom of the same number.

Protocol `atoms/top-1/true-token-logit/reactant-atoms`: a hit is a map whose largest score, of the reactants' atoms, lies on
that atom; scores are taken as they are, with their sign, and for maps that have negative ones also by size (|.|).
*Of the element*: the reactants' atoms of the true element alone compete. *All tokens*: everything does but the masked place
itself; bonds, brackets, [CLS], [SEP] and the rest of the product too.
Intervals are 95 % bootstrap; questions on reactions with one and the same product are drawn together.

    python benchmarks/atoms.py                      # fetch the wheel (3 MB) with pip, and print the table
    python benchmarks/atoms.py --wheel ../rxn       # where the wheel lies already
    python benchmarks/atoms.py --write              # and put the table into docs/known-answers.md
    python benchmarks/atoms.py --kept FOLDER        # keep the maps, and take up there what was cut off
    python benchmarks/atoms.py --folder FOLDER      # write model and reactions for `regard evaluate FOLDER atoms:FOLDER`

The wheel is checked against its published digest. Its weights are a pickle; they are read by `torch.load(weights_only=True)`,
which makes tensors and nothing else, and no code of the wheel is run: the reactions are string constants of its tests.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import measure
import torch
from peers import CACHE
from safetensors.torch import load_file, save_file
from torch import Tensor

import regard
from regard import Target
from regard.errors import Misuse
from regard.evaluation.data.reactions import TOKEN, Reaction
from regard.evaluation.statistics import Interval, mean_with_interval, paired

PAGE = measure.ROOT / "docs" / "known-answers.md"
WHEEL = "rxnmapper-0.4.3-py3-none-any.whl"
DIGEST = "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5"
MODEL = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/"
LAYER, HEAD = 10, 5
"""The head that RXNMapper reads its maps from."""

# -- reactions -----------------------------------------------------------------------------------------------------------


def reactions_in(source: str) -> Iterator[str]:
    """The mapped reactions among the string constants of a Python file; what follows a space is about fragments.

    Those that are numbered from 1: one that is not is there a second time, numbered otherwise.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            smiles = node.value.split(" ")[0]
            if ">>" in smiles and ":1]" in smiles:
                yield smiles


# -- the model -----------------------------------------------------------------------------------------------------------


def wheel(folder: Path | None) -> zipfile.ZipFile:
    """The wheel of a folder, or of the cache, where pip puts it first. Raises Misuse where it is missing or another one."""
    path = (folder or CACHE) / WHEEL
    if folder is None and not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as fresh:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", fresh, "rxnmapper==0.4.3"]
            if subprocess.run(pip, check=False).returncode or not (Path(fresh) / WHEEL).exists():
                raise Misuse(
                    f"pip could not fetch rxnmapper==0.4.3; put {WHEEL} into a folder and name it with --wheel"
                )
            (Path(fresh) / WHEEL).replace(path)
    if not path.exists():
        raise Misuse(f"{folder} holds no {WHEEL}: `pip download --no-deps rxnmapper==0.4.3` fetches it")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != DIGEST:
        raise Misuse(f"{path} is not the wheel that was published under this name (its sha256 differs); remove it")
    return zipfile.ZipFile(io.BytesIO(data))


def model_of(archive: zipfile.ZipFile) -> torch.nn.Module:
    """RXNMapper's ALBERT with its head for masked tokens."""
    from transformers import AlbertConfig, AlbertForMaskedLM

    model = AlbertForMaskedLM(AlbertConfig.from_dict(json.loads(archive.read(MODEL + "config.json"))))
    weights = io.BytesIO(archive.read(MODEL + "pytorch_model.bin"))
    state = torch.load(weights, map_location="cpu", weights_only=True)
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith("albert.pooler.")})
    return model.eval()


def written(archive: zipfile.ZipFile, folder: Path) -> None:
    """The model, its tokenizer and the reactions in a folder, as `regard evaluate` reads them; no pickle."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    model_of(archive).save_pretrained(folder)  # type: ignore[operator]
    ids = vocabulary_of(archive)
    made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN.pattern), "isolated")
    ends = [(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "CLS", "SEP", "PAD", "MASK")}
    PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)
    (folder / "reactions.txt").write_text("\n".join(mapped_in(archive)) + "\n")


def mapped_in(archive: zipfile.ZipFile) -> list[str]:
    """The mapped reactions of the wheel's tests."""
    names = [n for n in archive.namelist() if n.startswith("tests/test_")]
    return sorted({smiles for name in names for smiles in reactions_in(archive.read(name).decode())})


def vocabulary_of(archive: zipfile.ZipFile) -> dict[str, int]:
    """Token -> id."""
    lines = archive.read(MODEL + "vocab.txt").decode().splitlines()
    return {token: i for i, token in enumerate(lines)}


# -- questions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Questions:
    """All questions on one reaction: its tokens once for each, another one masked; (b, n) with [CLS] and [SEP]."""

    reaction: Reaction
    ids: Tensor
    asked: Tensor
    truth: Tensor
    origin: Tensor

    @classmethod
    def of(cls, reaction: Reaction, vocabulary: Mapping[str, int]) -> Questions:
        """As the model reads them: a token that the vocabulary lacks is [UNK]."""
        unknown = vocabulary["[UNK]"]
        texts = ["[CLS]", *(t.text for t in reaction.tokens), "[SEP]"]
        asked, origin = (torch.tensor(places) + 1 for places in zip(*reaction.questions, strict=True))
        ids = torch.tensor([vocabulary.get(t, unknown) for t in texts]).repeat(len(asked), 1)
        each = torch.arange(len(asked))
        truth = ids[each, asked]
        ids[each, asked] = vocabulary["[MASK]"]
        return cls(reaction, ids, asked, truth, origin)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the model takes; nothing is padded."""
        return {"input_ids": self.ids}

    @property
    def target(self) -> Target:
        """The logit of the true token at the mask."""
        return Target.logit(self.truth, position=self.asked)

    @property
    def contrast(self) -> Target:
        """The true token's logit less that of its best rival: the map of it guides another one."""
        return Target.contrast(self.truth, position=self.asked)

    @property
    def among(self) -> dict[str, Tensor]:
        """Who competes, bool (b, n)."""
        atoms = torch.zeros_like(self.ids, dtype=torch.bool)
        atoms[:, torch.tensor(self.reaction.reactant_atoms) + 1] = True
        elements = ["", *(t.element for t in self.reaction.tokens), ""]
        alike = torch.tensor([[e == elements[i] for e in elements] for i in self.origin.tolist()])
        masked = torch.nn.functional.one_hot(self.asked, self.ids.shape[1]).bool()
        return {"reactant atoms": atoms, "of the element": atoms & alike, "all tokens": ~masked}

    def hits(self, maps: Tensor, among: str) -> list[float]:
        """1 where the largest score of a map (b, n) lies on the atom of the same number, else 0."""
        top = maps.masked_fill(~self.among[among], -torch.inf).argmax(1)
        return (top == self.origin).float().tolist()


def chance(asked: Sequence[Questions], among: str) -> float:
    """How often a token drawn evenly from those that compete is the right one."""
    each = torch.cat([1 / q.among[among].sum(1) for q in asked])
    return float(each.mean())


# -- maps ----------------------------------------------------------------------------------------------------------------


class Variant(NamedTuple):
    """A row of the table: a method with options."""

    title: str
    method: str
    options: dict[str, Any]


CHOICES: dict[str, tuple[Any, ...]] = {
    "sign": ("positive", "negative", "absolute", "signed"),
    "correction": ("incomplete", "complete"),
    "path": ("residual_sum", "rollout"),
    "guide": (None, "contrast"),
    "reduce": ("mean", "l1", "l2"),
}
"""Options whose every value is a row of its own, wherever a method's default is one of them; but rollout is not guided."""
FEWER = {"lime": {"samples": 256}, "shap_kernel": {"samples": 512}}
"""Draws that are enough here, a quarter of the defaults: the default ones would take hours."""
WORDS = {"incomplete": "", "residual_sum": "", None: "", "complete": "complete", "contrast": "guided by the contrast"}
"""Words for values, in a row's title."""
TWINS = {
    "alpha_avg",
    "corrected_attention, positive",
    "corrected_attention, positive, guided by the contrast",
    "taylor",
}
"""The same maps as raw_attention, gae and, at zero, input_x_gradient."""
ONE_STREAM = {"heterogenous"}
"""Of one stream it is corrected_attention."""
FIRST = "gae"


def variants() -> list[Variant]:
    """Every method of the table, once for each of its choices."""
    every = (
        v
        for m in regard.methods()
        if m.name not in ONE_STREAM and not m.only_of
        for v in _choices_of(m.name, m.options)
    )
    return [v for v in every if v.title not in TWINS]


def _choices_of(name: str, options: Mapping[str, Any]) -> Iterator[Variant]:
    own = {o: values for o, values in CHOICES.items() if options.get(o, "none such") in values}
    for values in itertools.product(*own.values()):
        if {"rollout", "contrast"} <= {*values}:
            continue
        fewer = FEWER.get(name, {})
        said = ", ".join([*filter(None, (WORDS.get(v, v) for v in values)), *(f"{n} {o}" for o, n in fewer.items())])
        yield Variant(f"{name}, {said}" if said else name, name, dict(zip(own, values, strict=True)) | fewer)


def maps_of(model: torch.nn.Module, q: Questions, v: Variant) -> Tensor:
    """The maps (b, n) of a reaction's questions."""
    options = v.options | ({"guide": q.contrast} if v.options.get("guide") else {})
    exp: Any = regard.explain(model, q.inputs, q.target, method=v.method, **options)
    return exp.scores["input_ids"]


def own_head(model: torch.nn.Module, q: Questions) -> Tensor:
    """What the head that RXNMapper reads pays attention to, from the masked place."""
    call = regard.record(model, q.inputs).calls[LAYER]
    return torch.stack([call.rows(place[None]).A[i, HEAD, 0] for i, place in enumerate(q.asked)])


def own_head_unmasked(model: torch.nn.Module, q: Questions) -> Tensor:
    """The same as RXNMapper reads it: nothing masked, and both ways, product to reactants and back."""
    whole = q.ids[:1].clone()
    whole[0, q.asked[0]] = q.truth[0]
    A = regard.record(model, {"input_ids": whole}).calls[LAYER].rows(torch.arange(whole.shape[1])).A[0, HEAD]
    return A[q.asked] + A.T[q.asked]


# -- the table -----------------------------------------------------------------------------------------------------------


def rows_of(
    model: torch.nn.Module, asked: Sequence[Questions], kept: Path | None = None
) -> tuple[dict[str, list[Tensor]], dict[str, str]]:
    """Title of a row -> its maps, one tensor a reaction; and what does not apply, with the reason.

    kept: a folder for the maps of every row, where they are looked for first.
    """
    found: dict[str, list[Tensor]] = {}
    refused = {}
    for v in variants():
        try:
            maps = made_once(kept, v.title, lambda v=v: [maps_of(model, q, v) for q in asked])
        except Misuse as e:
            refused[v.title] = str(e)
            continue
        found[v.title] = maps
        if any(bool((m < 0).any()) for m in maps):
            found[f"{v.title}, \\|.\\|"] = [m.abs() for m in maps]
    head = f"the model's own head {HEAD} of layer {LAYER}"
    found[f"{head}, from the mask"] = [own_head(model, q) for q in asked]
    found[f"{head}, as RXNMapper reads it"] = [own_head_unmasked(model, q) for q in asked]
    return found, refused


def made_once(kept: Path | None, title: str, make: Callable[[], list[Tensor]]) -> list[Tensor]:
    """The maps of a row, from the folder where they lie there already."""
    if kept is None:
        return make()
    file = kept / (re.sub(r"[^a-z0-9]+", "-", title.lower()) + ".safetensors")
    if file.exists():
        found = load_file(file)
        return [found[str(i)] for i in range(len(found))]
    maps = make()
    kept.mkdir(parents=True, exist_ok=True)
    save_file({str(i): m.contiguous() for i, m in enumerate(maps)}, begun := file.with_suffix(".begun"))
    begun.rename(file)
    print(title, flush=True)
    return maps


def table(asked: Sequence[Questions], found: Mapping[str, Sequence[Tensor]]) -> str:
    """Methods x columns."""
    groups = [q.reaction.product for q in asked for _ in q.asked]

    def hits(title: str, among: str) -> list[float]:
        return [h for q, maps in zip(asked, found[title], strict=True) for h in q.hits(maps, among)]

    first = hits(FIRST, "reactant atoms")
    lines = [f"| method | reactant atoms | less {FIRST} | of the element | all tokens |", "|---|---|---|---|---|"]
    for title in found:
        own = hits(title, "reactant atoms")
        less = "–" if title == FIRST else cell(paired(own, first, groups=groups), sign="+")
        others = (cell(mean_with_interval(hits(title, c), groups=groups)) for c in ("of the element", "all tokens"))
        lines.append(f"| {' | '.join([title, cell(mean_with_interval(own, groups=groups)), less, *others])} |")
    return "\n".join(lines)


def cell(found: Interval, sign: str = "") -> str:
    """Mean and interval, in per cent."""
    value, low, high = (f"{100 * v:{sign}.1f}" for v in found)
    return f"{value} [{low}, {high}]"


def note(asked: Sequence[Questions], refused: Mapping[str, str], right: int) -> str:
    """On what the table rests."""
    products, count = len({q.reaction.product for q in asked}), sum(len(q.asked) for q in asked)
    evenly, alike, any_token = (100 * chance(asked, among) for among in asked[0].among)
    text = (
        f"{count} atoms of {len(asked)} reactions with {products} different products; the model's first guess at the mask is "
        f"the true token {right} times. Per cent, with 95 % bootstrap intervals over products. Drawn evenly, {evenly:.1f} % of "
        f"the reactants' atoms would be right, {alike:.1f} % of those of the element, {any_token:.1f} % of all tokens."
    )
    left_out = ", ".join(f"`{title}` ({why})" for title, why in refused.items())
    return f"{text} Not applicable: {left_out}." if left_out else text


def guessed(model: torch.nn.Module, asked: Sequence[Questions]) -> int:
    """How many masked tokens the model's first guess gets right."""
    with torch.no_grad():
        logits = [model(**q.inputs).logits[torch.arange(len(q.asked)), q.asked] for q in asked]
    return sum(int((at.argmax(-1) == q.truth).sum()) for at, q in zip(logits, asked, strict=True))


def main() -> None:
    """Print the table, and write it into docs/known-answers.md if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel", type=Path, help=f"a folder with {WHEEL}")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--kept", type=Path, help="a folder for the maps: a run that was cut off goes on from there")
    parser.add_argument("--folder", type=Path, help="write the model and the reactions into a folder, and nothing else")
    given = parser.parse_args()
    try:
        archive = wheel(given.wheel)
    except Misuse as e:
        parser.error(str(e))
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
        written(archive, given.folder)
        print(f"regard evaluate {given.folder} atoms:{given.folder}")
        return
    mapped = mapped_in(archive)
    vocabulary = vocabulary_of(archive)
    asked = [Questions.of(Reaction.parse(smiles), vocabulary) for smiles in mapped]
    model = model_of(archive)
    found, refused = rows_of(model, asked, given.kept)
    text = f"{table(asked, found)}\n\n{note(asked, refused, guessed(model, asked))}"
    print(text)
    if given.write:
        measure.write("atoms", text, PAGE)


if __name__ == "__main__":
    main()
