"""Where the model of a run is: checked before anything is read, named in the plan, and a GPU for each worker or task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import regard
from regard.errors import Misuse
from regard.evaluation.engines import work
from regard.evaluation.engines.ray import RayCrew, slot_of
from regard.evaluation.store.command import command_of

NONE = "there is no {} here: torch sees 0 CUDA devices; leave device out"


@pytest.fixture
def gpus(monkeypatch):
    """So many GPUs, as torch says."""

    def there(count: int, worker: str = "MainProcess") -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(work.multiprocessing, "current_process", lambda: SimpleNamespace(name=worker))

    return there


@pytest.mark.parametrize(
    ("device", "model", "says"),
    [
        ("gpu", "zoo/vit-scenes", "device 'gpu' is none that torch knows; give cpu, cuda or cuda:1"),
        (3.5, "zoo/vit-scenes", "device 3.5 is none that torch knows"),
        ("meta", "zoo/vit-scenes", "device is cpu or cuda, not 'meta'"),
        ("cuda", "zoo/vit-scenes", NONE.format("cuda")),
        ("cuda:1", "zoo/vit-scenes", NONE.format("cuda:1")),
        ("cpu", torch.nn.Linear(1, 1), "a model that is in memory runs where it is: move it with model.to"),
    ],
)
def test_what_is_refused(device, model, says, gpus, tmp_path):
    gpus(0)
    with pytest.raises(Misuse) as e:
        regard.evaluate(model, out=tmp_path / "run", device=device)
    assert str(e.value).startswith(says)
    assert not (tmp_path / "run").exists()


def test_the_driver_of_a_cluster_needs_no_gpu(gpus):
    gpus(0)
    assert work.checked_device("cuda", "zoo/vit-scenes", here=False) == "cuda"


class Moved:
    """A reader that tells where its model was put."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(to=self.put)
        self.to: Any = None

    def put(self, device: str) -> None:
        self.to = device


@pytest.mark.parametrize(
    ("device", "count", "worker", "to"),
    [
        ("", 2, "SpawnProcess-1", None),
        ("cpu", 2, "SpawnProcess-1", "cpu"),
        ("cuda", 1, "SpawnProcess-2", "cuda"),
        ("cuda", 2, "MainProcess", "cuda:0"),
        ("cuda", 2, "SpawnProcess-1", "cuda:1"),
        ("cuda", 2, "SpawnProcess-4", "cuda:0"),
        ("cuda:1", 2, "SpawnProcess-4", "cuda:1"),
    ],
)
def test_each_worker_takes_a_gpu_in_turn(gpus, device, count, worker, to):
    gpus(count, worker)
    reader = Moved()
    assert work.on_device(reader, device) is reader
    assert reader.to == to


@pytest.mark.parametrize(("device", "there", "room"), [("", 16, 18), ("cpu", 16, 18), ("cuda", 5, 6)])
def test_a_task_of_a_cluster_has_a_gpu_of_its_own(device, there, room):
    """Of 32 processors and 5 GPUs, tasks of two threads find so many slots, and a few more are asked for ahead."""
    slot = slot_of(SimpleNamespace(threads=2, device=device))
    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 32.0, "GPU": 5.0})
    assert RayCrew(cluster, None, None, slot, None).room() == room
    assert min(32 // slot["CPU"], 5 // slot["GPU"] if "GPU" in slot else 32) == there


def test_the_plan_names_it_and_another_one_is_refused(tmp_path, monkeypatch):
    asked: dict[str, Any] = {"methods": ["random"], "protocols": ["segmentation"], "examples": 1}
    found = regard.evaluate("zoo/vit-scenes", out=tmp_path / "run", device="cpu", **asked)
    assert found.plan["device"] == "cpu"
    assert "--device" not in command_of(found.plan, "x")
    assert "--device cuda" in command_of({**found.plan, "device": "cuda"}, "x")
    assert command_of({**found.plan, "together": True}, "x") == ""
    monkeypatch.setattr("regard.evaluation.evaluate.checked_device", lambda *_: "cuda")
    monkeypatch.setattr("regard.evaluation.evaluate.on_device", lambda *_: None)
    with pytest.raises(Misuse, match="the device was cpu and is cuda"):
        regard.evaluate("zoo/vit-scenes", out=tmp_path / "run", device="cuda", **asked)
    with pytest.raises(Misuse, match="whether methods share a call was False and is True"):
        regard.evaluate("zoo/vit-scenes", out=tmp_path / "run", together=True, **asked)
