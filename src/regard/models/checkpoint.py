"""The files of a model's folder (or of a name on the hub): found one by one, and held to safetensors before any is opened."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from regard.errors import InputError, ModelError

CONVERT = (
    "convert it once, if you trust its source: "
    "AutoModel….from_pretrained(name, use_safetensors=False).save_pretrained(folder), or pass use_safetensors=False"
)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A model's files by name. `shared`: what `from_pretrained` is told of where to look (revision, subfolder, ...)."""

    name: str
    shared: dict[str, Any]

    def find(self, file: str) -> Path | None:
        """Where a file of the model is; None where it has none of that name."""
        from transformers.utils import cached_file

        folder, _, last = file.strip("/").rpartition("/")
        beside = [part for part in (str(self.shared.get("subfolder") or ""), folder) if part]
        known = {k: v for k, v in self.shared.items() if k not in ("subfolder", "trust_remote_code")}
        quiet = {
            f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")
        }
        try:
            found = cached_file(self.name, last, subfolder="/".join(beside), **known, **quiet)
        except (OSError, ValueError):  # nowhere to look: what is loaded next says so
            return None
        return None if found is None else Path(found)

    def json(self, file: str) -> Any:
        """What a JSON file of the model holds; None where there is no such file. Raises InputError for one that is no JSON."""
        path = self.find(file)
        return None if path is None else read_json(path)

    def check_weights(self, config: Any, variant: str | None) -> None:
        """Raise ModelError where the files lead to weights that are no safetensors of the model's own folder."""
        said = getattr(config, "transformers_weights", None)
        if said is not None and not str(said).endswith((".safetensors", ".safetensors.index.json")):
            raise ModelError(self._leads("config.json", str(said)))
        file = str(said or _with(variant, SINGLE))
        if not file.endswith(".json") and (said or self.find(file) is not None):
            return
        index = str(said or _with(variant, INDEX))
        made = self.json(index)
        shards = made.get("weight_map") if isinstance(made, dict) else None
        if made is not None and not isinstance(shards, dict):
            raise InputError(f"{self.name!r} is damaged: its {index} does not say which weight is in which file")
        for shard in sorted({str(s) for s in (shards or {}).values()}):
            if not shard.endswith(".safetensors") or not _is_inside(shard):
                raise ModelError(self._leads(index, shard))

    def check_adapter(self) -> None:
        """Raise ModelError where an adapter's weights are no safetensors."""
        if self.find(ADAPTER_WEIGHTS) is None:
            raise ModelError(
                f"the adapter {self.name!r} has no {ADAPTER_WEIGHTS}; pickled weights can run any code when opened: save it "
                "anew with save_pretrained, if you trust its source"
            )

    def _leads(self, file: str, to: str) -> str:
        return (
            f"{self.name!r} points to weights that are not safetensors in its own folder ({file} names {to!r}), and pickled "
            f"weights can run any code when opened; {CONVERT}"
        )


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds. Raises InputError for one that cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"{path} cannot be read as JSON: {(str(e).splitlines() or [''])[0]}") from e


def _with(variant: str | None, file: str) -> str:
    """A weights file's name with its variant, as Transformers has it: before the last ending."""
    stem, _, ending = file.rpartition(".")
    return f"{stem}.{variant}.{ending}" if variant else file


def _is_inside(file: str) -> bool:
    """Whether a relative path stays in its folder."""
    ways = (PurePosixPath(file), PureWindowsPath(file))
    return not any(way.is_absolute() or way.drive or ".." in way.parts for way in ways)
