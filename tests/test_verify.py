"""`regard.verify`: no false alarm on any family, what it finds, what it says it cannot test, and that it leaves no trace."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
import regard
from checks import rows
from sweep import FAMILIES

SAMPLE = ("bert", "deberta-v2", "gpt2", "mistral", "qwen3-moe", "t5", "bart-labels", "vit", "dinov2-registers", "swin",
          "timesformer", "whisper", "clip", "lxmert", "vilt", "detr", "llava", "qwen2-vl", "einsum", "talking-heads",
          "attention-sinks", "slot-attention")  # fmt: skip
"""Of every kind one, for `make test`."""


def verified(name: str) -> regard.Verification:
    family = FAMILIES[name]
    torch.manual_seed(7)
    return regard.verify(family.build(), dict(family.inputs))


def alarms(name: str) -> list[str]:
    return [str(c) for c in verified(name).contradictions]


@pytest.mark.parametrize("name", SAMPLE)
def test_no_false_alarm(name: str) -> None:
    assert alarms(name) == []


OPEN = {"mistral3", "torch-attention"}
"""Wrong claims that verify found, until they are mended: `F.unfold` in the patch merger; values of tokens of their own."""


@pytest.mark.long
@pytest.mark.parametrize("name", [p for p in rows(FAMILIES) if p.values[0] not in SAMPLE])
def test_no_false_alarm_on_any_family(name: str) -> None:
    if name in OPEN:
        pytest.xfail("found by verify")
    assert alarms(name) == []
