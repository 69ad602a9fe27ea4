"""Folders that hold an adapter (LoRA and its kin) and no model: the base that they name is loaded, and they are put on it."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from regard.errors import InputError, ModelError
from regard.models.checkpoint import ADAPTER, ADAPTER_WEIGHTS, Checkpoint, read_json

TASKS = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "causal-lm",
    "SEQ_2_SEQ_LM": "seq2seq-lm",
    "FEATURE_EXTRACTION": "embedding",
}
VIRTUAL = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT")
BY_HAND = "load the base with Transformers, put the adapter on it with peft's PeftModel, and give that with processor="
HEADS = ("classifier.weight", "score.weight", "classifier.out_proj.weight", "qa_outputs.weight")


@dataclass(frozen=True)
class Adapter:
    """An adapter's `folder`, the local folder of its `base`, its `task` (a name of `loading.TASKS`, None where it says none).

    supplied: the weights of the base that it brings along (a new head), with their shapes.
    """

    folder: str
    base: str
    task: str | None
    supplied: dict[str, tuple[int, ...]]

    @property
    def classes(self) -> dict[str, int]:
        """How many classes the head has that it brings, as an option of `from_pretrained`."""
        found = [shape[0] for name, shape in self.supplied.items() if name.endswith(HEADS)]
        return {"num_labels": found[0]} if found and self.task != "question-answering" else {}

    @property
    def reads(self) -> str:
        """Where its tokenizer or image processor lies: beside it, else with its base."""
        own = ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
        return self.folder if any((Path(self.folder) / file).is_file() for file in own) else self.base

    def put_on(self, model: nn.Module) -> nn.Module:
        """The base with the adapter in it. Raises ModelError where peft is missing, or cannot put it on."""
        peft = _peft()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            made: Any = peft.PeftModel.from_pretrained(model, self.folder, is_trainable=False)
        if lacking := [str(w.message) for w in said if "missing adapter keys" in str(w.message)]:
            raise ModelError(f"the adapter {self.folder!r} lacks weights: {lacking[0].splitlines()[0][:200]}")
        found = made.get_base_model()
        assert isinstance(found, nn.Module)
        return found


def adapter_in(name: str | os.PathLike[str]) -> Adapter | None:
    """The adapter that a folder holds; None where it holds a model, or is no folder.

    Raises InputError for a base that is not at hand, ModelError for one whose kind Regard does not load.
    """
    folder = Path(name).expanduser()
    if not (folder / ADAPTER).is_file() or (folder / "config.json").is_file():
        return None
    config = read_json(folder / ADAPTER)
    config = config if isinstance(config, dict) else {}
    kind, base = str(config.get("peft_type") or "an unknown kind"), config.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise InputError(f"{folder} is an adapter ({kind}) that names no base; {BY_HAND}")
    if kind in VIRTUAL:
        raise ModelError(f"{folder} is an adapter ({kind}) that adds tokens which are in no text; {BY_HAND}")
    _peft()
    if not base.startswith("zoo/") and not (Path(base).expanduser() / "config.json").is_file():
        raise InputError(f"{folder} is an adapter of {base!r}, which is not a local folder with a model; {BY_HAND}")
    Checkpoint(str(folder), {}).check_adapter()
    return Adapter(str(folder), base, TASKS.get(str(config.get("task_type"))), _supplied(folder))


def _supplied(folder: Path) -> dict[str, tuple[int, ...]]:
    """Whole weights in an adapter's file, by the base's own names."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as e:
        raise InputError(f"the adapter's weights in {folder} cannot be read: {e}") from e
    plain = {k.removeprefix("base_model.model.").replace("modules_to_save.", ""): v for k, v in shapes.items()}
    return {k: v for k, v in plain.items() if k.endswith((".weight", ".bias")) and ".lora_" not in k}


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as e:
        if e.name != "peft":
            raise
        raise ModelError(f"adapters are loaded with peft, which is missing: pip install peft; or {BY_HAND}") from None
    return peft
