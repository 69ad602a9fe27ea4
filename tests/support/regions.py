"""A picture and a question of the zoo, and a command line to ask them on."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

from regard.cli import commands as cli

torch.set_num_threads(1)

QUESTION = "what is on the cats?"

RELATION = 14  # of the zoo's questions: what is left of the bag?


def picture(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8))


# ---------------------------------------------------------------- the command line


def run(*args: str, code: int = 0):
    result = CliRunner().invoke(cli.app, [*args])
    assert result.exit_code == code, result.output
    if code:
        assert len(result.stderr.strip().splitlines()) == 1
    return result
