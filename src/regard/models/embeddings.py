"""Models that turn a text into a vector, and the similarity of two texts by their vectors, which is what is explained.

The vectors are made as the model's own library makes them: by a SentenceTransformer's own modules or, for a folder, by the
pooling that it names.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.errors import InputError, ModelError, TargetError, nearest
from regard.explanation.raw_inputs import Text
from regard.models.checkpoint import read_json
from regard.models.generate import can_write
from regard.models.places import WITH_SENTENCE_TRANSFORMER
from regard.models.texts import read_texts
from regard.target import Target

States = Float[Tensor, "batch token width"]
Mask = Int[Tensor, "batch token"]
SECOND = "second_"  # what the second text's keywords begin with
FOUND = "sentence_embedding"  # where a SentenceTransformer leaves the vector


def _mean(states: States, mask: Mask) -> Tensor:
    weight = mask[..., None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def _root(states: States, mask: Mask) -> Tensor:
    weight = mask[..., None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1e-9).sqrt()


def _weighted(states: States, mask: Mask) -> Tensor:
    """The mean, in which later tokens weigh more: 1, 2, 3, ..."""
    weight = (mask.cumsum(1) * mask)[..., None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def _at(states: States, rows: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), rows]


POOLINGS: dict[str, Callable[[States, Mask], Tensor]] = {
    "mean": _mean,
    "cls": lambda states, mask: _at(states, mask.argmax(1)),
    "last": lambda states, mask: _at(states, mask.shape[1] - 1 - mask.flip(1).argmax(1)),
    "max": lambda states, mask: states.masked_fill(mask[..., None] == 0, -torch.inf).amax(1),
    "mean_sqrt_len": _root,
    "weighted_mean": _weighted,
}
LIKENESS: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "cosine": ("cosine of the two texts", lambda a, b: F.cosine_similarity(a, b, dim=-1)),
    "dot": ("dot product of the two texts", lambda a, b: (a * b).sum(-1)),
    "euclidean": ("minus the distance of the two texts", lambda a, b: -(a - b).norm(dim=-1)),
    "manhattan": ("minus the Manhattan distance of the two texts", lambda a, b: -(a - b).abs().sum(-1)),
}
_SAID = {
    "cls": ("pooling_mode_cls_token", "cls"),
    "last": ("pooling_mode_lasttoken", "lasttoken", "last_token"),
    "max": ("pooling_mode_max_tokens", "max"),
    "mean": ("pooling_mode_mean_tokens", "mean"),
    "mean_sqrt_len": ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
    "weighted_mean": ("pooling_mode_weightedmean_tokens", "weightedmean"),
}
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")


class Embedded(dict[str, Tensor]):
    """A model's output, whose fields can be read as attributes too."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Embedder(nn.Module):
    """One text to its `embedding`; two texts to their `similarity` (batch,), `embedding` and `second_embedding`.

    Attributes:
        body: what makes the states of tokens, or the whole chain of a SentenceTransformer.
        config: the body's.
        likeness: a name of LIKENESS. prompt: what the model's library puts before every text.
        lower: whether texts are written small first.
    """

    def __init__(
        self,
        body: nn.Module,
        pool: Callable[[States, Mask], Tensor] | None,
        after: Sequence[nn.Module] = (),
        likeness: str = "cosine",
        prompt: str = "",
        lower: bool = False,
    ) -> None:
        super().__init__()
        if likeness not in LIKENESS:
            raise ModelError(f"texts are compared by {likeness!r}, which Regard does not know ({', '.join(LIKENESS)})")
        self.training = body.training  # never that of the user's own modules
        self.body, self.pool, self.after = body, pool, nn.ModuleList(after)
        self.after.training = self.training
        self.config: Any = getattr(_inside(body), "config", None)
        self.likeness, self.prompt, self.lower = likeness, prompt, lower

    @property
    def inner(self) -> nn.Module:
        """The library's own model, which the first module of a SentenceTransformer holds."""
        return _inside(self.body)

    @property
    def label(self) -> str:
        """What is explained of two texts."""
        return LIKENESS[self.likeness][0]

    def takes(self) -> set[str]:
        """The keywords that the model knows, for either text."""
        named = inspect.signature(self.inner.forward).parameters
        own = [k for k in inspect.signature(self.forward).parameters if not k.startswith(SECOND) and k in named]
        return {prefix + key for prefix in ("", SECOND) for key in own}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        second_input_ids: Tensor | None = None,
        second_attention_mask: Tensor | None = None,
        second_token_type_ids: Tensor | None = None,
        second_position_ids: Tensor | None = None,
    ) -> Embedded:
        """The vector of each text (batch, width), and how alike they are where there are two."""
        out = self._embed(input_ids, attention_mask, token_type_ids, position_ids)
        if second_input_ids is None:
            return out
        beside = (second_attention_mask, second_token_type_ids, second_position_ids)
        first, second = out.embedding, self._embed(second_input_ids, *beside).embedding
        return Embedded(similarity=LIKENESS[self.likeness][1](first, second), embedding=first, second_embedding=second)

    def _embed(self, ids: Tensor, mask: Tensor | None, types: Tensor | None, positions: Tensor | None) -> Embedded:
        mask = torch.ones_like(ids) if mask is None else mask
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "position_ids": positions}
        inputs: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        out: Any = self.body(dict(inputs)) if self.pool is None else self.body(**inputs)
        fields = {k: v for k, v in _fields(out).items() if isinstance(v, Tensor)}
        if self.pool is None:
            if FOUND not in fields:
                raise ModelError(
                    f"{type(self.body).__name__} makes no single vector of a text; give its model and tokenizer"
                )
            return Embedded(fields, embedding=fields[FOUND])
        vector = self.pool(fields["last_hidden_state"], mask)
        for part in self.after:
            vector = part(vector)
        return Embedded(fields, embedding=vector)


class UnitLength(nn.Module):
    """To vectors of length 1."""

    def forward(self, vector: Tensor) -> Tensor:
        """(batch, width) to the same."""
        return F.normalize(vector, dim=-1)


def _fields(out: Any) -> Mapping[str, Any]:
    return out if isinstance(out, Mapping) else {"last_hidden_state": out[0]}


def _inside(body: nn.Module) -> nn.Module:
    """The library's own model, which the first module of a SentenceTransformer holds."""
    if not isinstance(body, nn.Sequential):
        return body
    held = (getattr(body[0], name, None) for name in ("model", "auto_model"))
    return next((model for model in held if isinstance(model, nn.Module)), body[0])


def is_headless(model: nn.Module) -> bool:
    """Whether a module of Transformers reads texts and has no head: its last states are what it gives."""
    return is_headless_class(type(model), getattr(model, "config", None)) and not can_write(model)


def is_headless_class(made: Any, config: Any) -> bool:
    """The same of a class, by its name and its config."""
    name = str(getattr(made, "__name__", ""))
    if getattr(made, "main_input_name", "") != "input_ids" or not name.endswith("Model") or "Head" in name:
        return False
    beside = getattr(config, "is_encoder_decoder", False) and not name.endswith("EncoderModel")
    return not beside and not any(hasattr(config, f"{of}_config") for of in ("vision", "audio"))


def of_module(model: nn.Module, pooling: str | None) -> tuple[Embedder, list[str]]:
    """A headless model as an Embedder, and a note where its pooling had to be guessed.

    Raises UnknownName for a pooling that there is not.
    """
    if pooling is not None:
        return Embedder(model, POOLINGS[known(pooling)]), []
    looks_back = any(getattr(m, "is_causal", False) for m in model.modules())
    guessed, usual = (
        ("last", "last token, as usual for a decoder")
        if looks_back
        else ("mean", "mean of its tokens, as usual for an encoder")
    )
    note = f"{type(model).__name__} does not say how a text is pooled: its vector is the {usual} (choose another with pooling=)"
    return Embedder(model, POOLINGS[guessed]), [note]


def of_sentence_transformer(model: nn.Sequential) -> Embedder:
    """A SentenceTransformer as an Embedder: its own modules, in eval mode whatever mode the chain itself says.

    (Its `encode` puts it in eval mode too; the user's object keeps the mode that it has.)
    """
    prompts, name = getattr(model, "prompts", None) or {}, getattr(model, "default_prompt_name", None)
    chain = nn.Sequential(*(_in_eval(part) for part in model))
    chain.training = False
    said = getattr(model, "similarity_fn_name", None) or "cosine"
    lower = bool(getattr(model[0], "do_lower_case", False))
    return Embedder(chain, None, (), str(getattr(said, "value", said)), prompts.get(name, "") if name else "", lower)


def _in_eval(part: nn.Module) -> nn.Module:
    """The module itself, or, where it alone says that it is in train mode, a double that shares all that it holds."""
    if not part.training:
        return part
    double = copy.copy(part)
    double._modules = dict(part._modules)
    double.training = False
    return double


def known(pooling: str) -> str:
    """A name of POOLINGS, also as sentence-transformers calls it. Raises UnknownName."""
    for name, others in _SAID.items():
        if pooling == name or pooling in others:
            return name
    raise nearest(pooling, POOLINGS, "pooling")


# -- two texts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One text of every pair, read: its keyword tensors, by the name that they have in `Embedder.forward`."""

    stream: str
    inputs: dict[str, Tensor]
    texts: list[Text]
    special: Tensor
    notes: list[str]


def read(tokenizer: Any, model: Embedder, raws: Sequence[Any], truncate: bool) -> list[Side]:
    """Read texts, or pairs of them, whose two sides are read apart. Raises InputError for both at once, and as `read_texts`."""
    pairs = [isinstance(raw, tuple) and len(raw) == 2 for raw in raws]
    if any(pairs) and not all(pairs):
        raise InputError("some inputs are pairs of texts and some are single texts; give pairs, or texts, not both")
    sides = [*zip(*raws, strict=True)] if all(pairs) else [raws]
    names = ("first text", "second text") if all(pairs) else ("text",)
    prefixes = ("", SECOND)
    return [_side(tokenizer, model, *how, truncate) for how in zip(prefixes, names, sides, strict=False)]


def _side(tokenizer: Any, model: Embedder, prefix: str, name: str, raws: Sequence[Any], truncate: bool) -> Side:
    given = [_prompted(model, raw) for raw in raws]
    batch = read_texts(tokenizer, model.inner, given, truncate)
    inputs = {prefix + k: v for k, v in batch.inputs.items() if prefix + k in model.takes()}
    texts = [replace(t, name=name if len(raws) == 1 else f"{name} {i}") for i, t in enumerate(batch.texts)]
    return Side(prefix + "input_ids", inputs, texts, batch.special, batch.notes)


def _prompted(model: Embedder, raw: Any) -> Any:
    """A text as the model's own library would read it; what is no text is told so by what reads it."""
    if not isinstance(raw, str) or not raw.strip():
        return raw
    text = model.prompt + raw
    return text.lower() if model.lower else text


def likeness(model: Embedder) -> Target:
    """How alike two texts are, as a target. It raises TargetError where there is one text alone."""

    def read(out: Any) -> Tensor:
        if "similarity" not in out:
            raise TargetError(
                "one text gives a vector, not a single number: give two, explain((first, second)), to explain how alike they "
                "are; or one number of the vector, target=Target.of(lambda out: out.embedding[:, 0])"
            )
        return torch.as_tensor(out["similarity"])

    return Target.of(read, model.label)


# -- folders that sentence-transformers saved -------------------------------------------------------------------------


def is_saved_chain(modules: Any) -> bool:
    """Whether a folder's modules.json is of a chain that pools tokens."""
    return isinstance(modules, list) and any(_kind(m) == "Pooling" for m in modules)


def of_folder(model: nn.Module, modules: list[dict[str, Any]], find: Callable[[str], Path | None]) -> Embedder:
    """A model with the pooling, and what comes after it, that its folder names. `find`: a file of that folder, or None.

    Raises ModelError for parts that only sentence-transformers knows.
    """
    pool: Callable[[States, Mask], Tensor] | None = None
    after: list[nn.Module] = []
    for part in modules[1:]:
        kind, path = _kind(part), str(part.get("path", ""))
        if kind == "Pooling" and pool is None:
            pool = _pooling(_json(find(f"{path}/config.json")))
        elif kind == "Normalize":
            after.append(UnitLength())
        elif kind == "Dense" and pool is not None:
            after += _dense(_json(find(f"{path}/config.json")), find(f"{path}/model.safetensors"))
        elif kind != "Dropout":
            raise ModelError(
                f"it has a part {kind!r} that only sentence-transformers knows; {WITH_SENTENCE_TRANSFORMER}"
            )
    said = _json(find("config_sentence_transformers.json"))
    own = _json(find("sentence_bert_config.json"))
    name = said.get("default_prompt_name")
    place = next(model.parameters())
    return Embedder(
        model,
        pool or _mean,
        [part.to(place.device, place.dtype).train(model.training) for part in after],
        str(said.get("similarity_fn_name") or "cosine"),
        str((said.get("prompts") or {}).get(name, "")) if name else "",
        bool(own.get("do_lower_case", False)),
    )


def _kind(part: Any) -> str:
    return str(part.get("type", "")).rpartition(".")[2] if isinstance(part, Mapping) else ""


def _json(path: Path | None) -> dict[str, Any]:
    made = {} if path is None else read_json(path)
    return made if isinstance(made, dict) else {}


def _pooling(config: dict[str, Any]) -> Callable[[States, Mask], Tensor]:
    """The pooling that a config names; several are laid end to end."""
    said = config.get("pooling_mode")
    modes = [said] if isinstance(said, str) else list(said or [])
    modes = modes or [key for key in config if key.startswith("pooling_mode_") and config[key] is True]
    names = [known(str(mode)) for mode in modes or ["mean"]]
    if not config.get("include_prompt", True):
        raise ModelError(
            f"its pooling leaves the prompt out, which only sentence-transformers does; {WITH_SENTENCE_TRANSFORMER}"
        )
    pools = [POOLINGS[name] for name in names]
    return pools[0] if len(pools) == 1 else lambda states, mask: torch.cat([p(states, mask) for p in pools], -1)


def _dense(config: dict[str, Any], weights: Path | None) -> list[nn.Module]:
    """A layer after the pooling, from its safetensors."""
    from safetensors.torch import load_file

    name = str(config.get("activation_function", "torch.nn.modules.linear.Identity")).rpartition(".")[2]
    if weights is None or name not in _ACTIVATIONS:
        what = "has no safetensors" if weights is None else f"has an activation {name!r} that Regard does not know"
        raise ModelError(f"its layer after the pooling {what}; {WITH_SENTENCE_TRANSFORMER}")
    tensors = load_file(weights)
    weight = tensors["linear.weight"]
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias="linear.bias" in tensors)
    layer.load_state_dict({k.removeprefix("linear."): v for k, v in tensors.items()})
    return [layer, getattr(nn, name)()]
