"""Environments of their own for packages that we are measured beside: nothing of them enters the project's.

A script that needs one makes it when it first runs, and runs itself there again with this tree's library on the path. They
lie in `~/.cache/regard-benchmarks` (or below `$XDG_CACHE_HOME`) and can be removed at any time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regard-benchmarks"


@dataclass(frozen=True)
class Peer:
    """An environment: its name; packages, which bring what they need; and packages alone, whose needs are not all used here."""

    name: str
    packages: tuple[str, ...]
    alone: tuple[str, ...]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return CACHE / self.name / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def make(self) -> None:
        """Install it, unless these very packages are there already. Raises SystemExit where pip fails."""
        ready, asked = CACHE / self.name / ".ready", "\n".join([*self.packages, "alone:", *self.alone])
        if ready.exists() and ready.read_text(encoding="utf-8") == asked:
            return
        print(f"making an environment for {self.name} in {CACHE / self.name}", file=sys.stderr)
        venv.create(CACHE / self.name, clear=True, with_pip=True)
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
        alone = [("--no-deps", *self.alone)] if self.alone else []
        for packages in (self.packages, *alone):
            if subprocess.run([*pip, *packages], check=False).returncode:
                raise SystemExit(f"pip could not install {' '.join(packages)}; {self.name} is measured only with it")
        ready.write_text(asked, encoding="utf-8")

    def run(self, script: str, arguments: Sequence[str]) -> None:
        """Run a script there, with this tree's library. Raises SystemExit where it fails."""
        self.make()
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run([str(self.python), script, *arguments], env=environment, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
