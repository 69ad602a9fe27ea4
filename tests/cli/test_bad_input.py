"""Bad input, by library and by command line: one clear line, the right exit code, nothing written, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import regard
from regard.cli import commands as cli
from regard.errors import Failure, InputError, Misuse, ModelError, NonFinite, RegardError, TargetError, UnknownName
from regard.reader import Reader
from support.folders import image_parts, picture, text_parts

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)


# ---------------------------------------------------------------- folders


def save(folder: Path, model, *parts) -> Path:
    for part in (model, *parts):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Callable[[str], Path]:
    """Model folders by what is wrong with them, each made once."""
    made: dict[str, Path] = {}

    def vit(names=None, weight: float | None = None):
        config, processor, settings = image_parts("vit")
        if names is not None:
            config.id2label, config.label2id = names, {v: k for k, v in names.items()}
        torch.manual_seed(0)
        model = transformers.ViTForImageClassification(config)
        if weight is not None:
            model.classifier.weight.data[0, 0] = weight
        return model, getattr(transformers, processor)(**settings)

    def bert(weight: float | None = None):
        config, tokenizer = text_parts("bert")
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config)
        if weight is not None:
            model.bert.encoder.layer[0].output.dense.weight.data[0, 0] = weight
        return model, tokenizer

    def resnet():
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3)
        return transformers.ResNetForImageClassification(config), vit()[1]

    def pickled(path: Path) -> Path:
        model, processor = vit()
        save(path, model, processor)
        (path / "model.safetensors").unlink()
        torch.save(model.state_dict(), path / "pytorch_model.bin")
        return path

    ways = {
        "vit": vit,
        "bert": bert,
        "resnet": resnet,
        "nan-vit": lambda: vit(weight=torch.nan),
        "inf-vit": lambda: vit(weight=torch.inf),
        "nan-bert": lambda: bert(torch.nan),
        "escaping": lambda: vit({0: "../../x", 1: "..", 2: "/etc/passwd\n\x1b[31m"}),
    }

    def make(name: str) -> Path:
        if name not in made:
            path = tmp_path_factory.mktemp(name)
            made[name] = pickled(path) if name == "pickled" else save(path, *ways[name]())
        return made[name]

    return make


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder with good and bad inputs, one level deep, so that an escape from it can be seen."""
    work = tmp_path / "a" / "b"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    picture().save("cat.png")
    Path("words.png").write_text("these are words, no picture")
    Path("nothing.png").write_bytes(b"")
    Path("half.png").write_bytes(Path("cat.png").read_bytes()[:60])
    Path("album.png").mkdir()
    Path("empty.txt").write_text(" \n")
    Path("latin.txt").write_bytes("schön".encode("latin-1"))
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its content; folders end in a slash."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return found | {f"{p.relative_to(folder)}/": b"" for p in folder.rglob("*") if p.is_dir()}


# ---------------------------------------------------------------- the two ways in


def one_line(text: str, code: int) -> str:
    assert code in (1, 2)
    assert len(text.strip().splitlines()) == 1, text
    assert "Traceback" not in text
    assert "unexpected" not in text, text
    assert all(c.isprintable() for c in text.rstrip("\n"))
    return text


def command(capfd, *arguments: object) -> tuple[int, str]:
    """`regard.cli.commands.main`: exit code and stderr."""
    capfd.readouterr()  # a model's folder may just have been written, with a bar of its own
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    return int(ended.value.code or 0), capfd.readouterr().err


def refused_by_command(capfd, here: Path, code: int, said: str, *arguments: object) -> None:
    """The command ends with a code and one line that says what is wrong; an older report stays as it was."""
    Path("out").mkdir(exist_ok=True)
    Path("out/report.html").write_text("an older report")
    before = everything(here)
    ended, text = command(capfd, "explain", *arguments, "--out", "out")
    assert ended == code, text
    assert said in one_line(text, code)
    assert everything(here) == before


def refused(error: type[RegardError], said: str, call: Callable[[], object]) -> None:
    """The library raises one of our errors, in one line."""
    with pytest.raises(error) as raised:
        call()
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def untouched(model: nn.Module, training: bool = False) -> None:
    for module in model.modules():
        assert module.training is training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(p.grad is None for p in model.parameters())


@dataclass(frozen=True)
class Bad:
    """A bad input by what is said of it."""

    said: str
    raw: str = "cat.png"
    model: str = "vit"
    target: str | None = None
    method: str = "gae"
    error: type[RegardError] = Misuse
    loads: bool = True

    def __str__(self) -> str:
        return f"{self.model}-{self.said[:24]}"


LONG = "the movie " * 30
BAD = [
    Bad("no such", "missing.png", error=InputError),
    Bad("is not a picture", "words.png", error=InputError),
    Bad("is empty", "nothing.png", error=InputError),
    Bad("half.png", "half.png", error=InputError),
    Bad("is a folder", "album.png", error=InputError),
    Bad("unknown label 'Dgo'; did you mean 'Dog'?", target="Dgo", error=UnknownName),
    Bad("there is no class 3; the model has 3", target="3", error=TargetError),
    Bad("unknown method 'gea'; did you mean 'gae'", method="gea", error=UnknownName),
    Bad("no attention call was seen in ResNetForImageClassification", model="resnet", error=ModelError),
    Bad("finite", model="nan-vit", error=NonFinite),
    Bad("finite", model="inf-vit", error=NonFinite),
    Bad("finite", "a lovely movie", "nan-bert", error=NonFinite),
    Bad("only pickled weights", model="pickled", error=ModelError, loads=False),
    Bad("is empty", "", "bert", error=InputError),
    Bad("is empty", " \t\n ", "bert", error=InputError),
    Bad("tokens, but BertForSequenceClassification takes at most 20", LONG, "bert", error=InputError),
    Bad("unknown label 'positiv'; did you mean 'positive'", "a movie", "bert", target="positiv", error=UnknownName),
    Bad("unknown method 'atention'; did you mean", "a movie", "bert", method="atention", error=UnknownName),
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_library(bad, folder, here):
    path = folder(bad.model)
    if not bad.loads:
        refused(bad.error, bad.said, lambda: regard.load(path))
        return
    reader = regard.load(path)
    before = everything(here)
    refused(bad.error, bad.said, lambda: reader.explain(bad.raw, target=bad.target, method=bad.method))
    untouched(reader.model)
    assert everything(here) == before


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_command(bad, folder, here, capfd):
    arguments = [bad.raw, "--model", folder(bad.model), "--method", bad.method]
    arguments += ["--target", bad.target] if bad.target is not None else []
    refused_by_command(capfd, here, bad.error.exit_code, bad.said, *arguments)


def test_exit_codes_tell_misuse_from_failure():
    assert NonFinite.exit_code == Failure.exit_code == 1
    assert {e.exit_code for e in (InputError, UnknownName, TargetError, ModelError)} == {2}


@pytest.mark.parametrize(
    ("raw", "said"),
    [("empty.txt", "is empty"), ("latin.txt", "not UTF-8"), ("missing.txt", "no such file"), ("cat.png", "not UTF-8")],
)
def test_files_that_are_no_text(raw, said, folder, here, capfd):
    refused_by_command(capfd, here, 2, said, raw, "--model", folder("bert"))


def test_a_good_input_before_a_bad_one_is_kept(folder, here, capfd):
    """Of several inputs each stands for itself; a wrong option is refused before the first."""
    refused_by_command(capfd, here, 2, "unknown label", "cat.png", "--target", "Dog", "--target", "Dgo",
                       "--model", folder("vit"))  # fmt: skip
    refused_by_command(
        capfd, here, 2, "unknown label", "cat.png", "half.png", "--target", "Dgo", "--model", folder("vit")
    )
    refused_by_command(capfd, here, 2, "no attention", "cat.png", "half.png", "--model", folder("resnet"))
    code, text = command(capfd, "explain", "cat.png", "words.png", "--model", folder("vit"), "--out", "new", "--quiet")
    assert code == 1
    assert "1 of 2 inputs could not be explained: words.png is not a picture" in one_line(text, 1)
    assert sorted(p.name for p in Path("new").iterdir()) == ["cat", "index.html", "index.json"]


def test_a_text_is_cut_only_where_asked_and_this_is_said(folder, here, capfd):
    reader = regard.load(folder("bert"))
    exp = reader.explain(LONG, truncate=True)
    assert exp.scores["input_ids"].shape == (1, 20)
    assert any("only its first 20 tokens were read" in note for note in exp.receipt.notes)
    code, _ = command(capfd, "explain", LONG, "--model", folder("bert"), "--truncate", "--out", "out")
    assert code == 0
    assert "only its first 20 tokens were read" in Path("out/report.html").read_text("utf-8")


# ---------------------------------------------------------------- models that no folder holds


class Plain(nn.Module):
    """A perceptron of pixels; `config` may claim a kernel."""

    def __init__(self, kernel: str | None = None):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 8, stride=8), nn.Linear(4, 3)
        if kernel is not None:
            self.config = SimpleNamespace(_attn_implementation=kernel, id2label={0: "a", 1: "b", 2: "c"})

    def mix(self, x: Tensor) -> Tensor:
        return x.relu()

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.stem(pixel_values).flatten(2).transpose(1, 2)
        return self.head(self.mix(x).mean(1))


@torch.library.custom_op("regard_tests::attend", mutates_args=())
def attend(x: Tensor) -> Tensor:
    """An attention in a kernel of its own, as flash attention is: no function mode sees the inside of it."""
    return torch.softmax(x @ x.mT, -1) @ x


attend.register_autograd(lambda ctx, grad: grad)


class Fused(Plain):
    def mix(self, x: Tensor) -> Tensor:
        return attend(x)


def pixels(image: Image.Image) -> Tensor:
    return torch.linspace(-1, 1, 3 * 32 * 32).view(3, 32, 32)


def traced() -> nn.Module:
    return torch.jit.trace(Plain().eval(), torch.zeros(1, 3, 32, 32))


OUT_OF_SIGHT = 'call model.set_attn_implementation("sdpa") first'


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Plain().eval(), "no attention call was seen in Plain"),
        (lambda: Plain().train(), "is in train mode"),
        (lambda: Fused("flash_attention_2").eval(), OUT_OF_SIGHT),
        (lambda: Fused("flash_attention_3").eval(), OUT_OF_SIGHT),
        (lambda: Fused("flex_attention").eval(), OUT_OF_SIGHT),
        (lambda: Fused("kernels-community/flash-attn").eval(), OUT_OF_SIGHT),
        (lambda: Fused().eval(), "no attention call was seen in Fused"),
    ],
    ids=["perceptron", "train", "flash2", "flash3", "flex", "hub kernel", "unknown kernel"],
)
def test_models_that_cannot_be_watched(make, said, here, capfd, monkeypatch):
    reader = Reader(make(), pixels, "image", ["a", "b", "c"])
    training = reader.model.training
    refused(ModelError, said, lambda: reader.explain("cat.png"))
    refused(ModelError, said, lambda: reader.inspect("cat.png"))
    untouched(reader.model, training)
    monkeypatch.setattr(regard, "load", lambda name: reader)
    refused_by_command(capfd, here, 2, said, "cat.png", "--model", "mine")
    code, text = command(capfd, "inspect", "cat.png", "--model", "mine")
    assert code == 2
    assert said in one_line(text, code)
    untouched(reader.model, training)


def test_a_transformer_in_train_mode(folder, here):
    model = regard.load(folder("vit")).model.train()
    refused(
        ModelError,
        "call model.eval() first",
        lambda: regard.explain(model, {"pixel_values": torch.zeros(1, 3, 32, 32)}),
    )
    untouched(model, training=True)
    model.eval().vit.layers[0].train() if hasattr(model.vit, "layers") else model.eval().vit.encoder.layer[0].train()
    refused(ModelError, "is in train mode", lambda: regard.explain(model, {"pixel_values": torch.zeros(1, 3, 32, 32)}))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced_models_and_inference_mode():
    refused(ModelError, "traced or scripted", lambda: regard.explain(traced(), torch.zeros(1, 3, 32, 32)))
    with torch.inference_mode():
        refused(ModelError, "inference_mode", lambda: regard.explain(Plain().eval(), torch.zeros(1, 3, 32, 32)))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [({}, "no tensor"), ("cat.png", "inputs must be"), ([1, 2], "inputs must be"), (None, "inputs must be")],
)  # fmt: skip
def test_inputs_that_are_no_tensors(inputs, said):
    refused(ModelError, said, lambda: regard.explain(Plain().eval(), inputs))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"target": 3}, TargetError, "class 3 is out of range: there are 3"),
        ({"target": -1}, TargetError, "class -1 is out of range"),
        ({"target": torch.tensor([0, 1])}, TargetError, "one class per sample is needed"),
        ({"target": "Dog"}, Misuse, "is a label, and only a reader knows labels"),
        ({"target": []}, Misuse, "nothing to explain"),
        ({"method": []}, Misuse, "nothing to explain"),
        ({"method": ["gae", "rolout"]}, UnknownName, "did you mean 'rollout'"),
        ({"measure": "lasy"}, UnknownName, "did you mean 'lazy'"),
        ({"readout": "clss"}, UnknownName, "did you mean 'cls'"),
        ({"readout": 99}, Misuse, "out of range"),
        ({"start_layr": 1}, UnknownName, "did you mean 'start_layer'"),
        ({"target": lambda out: out["logits"]}, TargetError, "must give one number per sample"),
        ({"target": lambda out: out["logits"][:, 0] * torch.nan}, NonFinite, "finite"),
    ],
)
def test_bad_options_by_library(options, error, said, folder):
    model = regard.load(folder("vit")).model
    refused(error, said, lambda: regard.explain(model, {"pixel_values": torch.zeros(1, 3, 32, 32)}, **options))
    untouched(model)


def test_nan_in_the_input(folder):
    x = torch.zeros(1, 3, 32, 32)
    x[0, 0, 0, 0] = torch.nan
    refused(NonFinite, "finite", lambda: regard.explain(regard.load(folder("vit")).model, {"pixel_values": x}))


# ---------------------------------------------------------------- where the output goes


def test_labels_lead_nowhere(folder, here, capfd):
    before = everything(here)
    targets = ["../../x", "..", "2"]
    arguments = [a for t in targets for a in ("--target", t)]
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", "cat.png", "--model", str(folder("escaping")), *arguments, "--out", "out"])
    assert not ended.value.code
    printed = capfd.readouterr()
    assert "\x1b" not in printed.out + printed.err
    new = set(everything(here)) - set(before)
    assert new == {"a/b/out/"} | {n for n in new if n.startswith("a/b/out/") and "/" not in n[len("a/b/out/") :]}
    assert len(new) == 1 + 1 + len(targets)
    assert {k: v for k, v in everything(here).items() if k in before} == before


def test_comparisons_of_bad_models_and_bad_pictures(folder, here, capfd):
    before = everything(here)
    for model, value, code, said in [
        ("nan-vit", "cat.png", 1, "finite"),
        ("vit", "cat.jpg", 2, "no such file"),
        ("vit", "album.png", 2, "is a folder"),
    ]:
        found, text = command(capfd, "compare", value, "--model", folder(model), "--out", "out")
        assert found == code
        assert said in one_line(text, code)
    assert everything(here) == before


def test_comparisons_of_labels_that_lead_nowhere(folder, here, capfd):
    before = everything(here)
    how = ["--model", folder("escaping"), "--target", "../../x", "--methods", "taylor,gae", "--sites", "input"]
    code, text = command(capfd, "compare", "cat.png", *how, "--out", "out")
    assert code == 0, text
    made = {"a/b/out/", "a/b/out/comparison.html", "a/b/out/comparison.png"}
    assert set(everything(here)) - set(before) == made


@pytest.mark.parametrize("out", ["file", "file/below", "dangling/below", "/proc/regard/out"])
def test_output_that_cannot_be_written(out, folder, here, capfd):
    Path("file").write_text("mine")
    Path("dangling").symlink_to("nowhere")
    before = everything(here)
    code, text = command(capfd, "explain", "cat.png", "--model", folder("vit"), "--out", out)
    assert code == 2, text
    one_line(text, code)
    assert everything(here) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_without_permission(folder, here, capfd):
    Path("closed").mkdir(mode=0o500)
    code, text = command(capfd, "explain", "cat.png", "--model", folder("vit"), "--out", "closed")
    assert code == 2
    assert "cannot be written" in one_line(text, code)


def test_files_in_the_way(folder, here, capfd):
    Path("out/report.html").mkdir(parents=True)
    before = everything(here)
    code, text = command(capfd, "explain", "cat.png", "--model", folder("vit"), "--out", "out")
    assert code == 2, text
    one_line(text, code)
    assert everything(here) == before


def test_models_that_are_not_there(here, capfd):
    Path("bare").mkdir()
    for name, said in [("./none", "no such model folder"), ("bare", "no config.json"), ("cat.png", "is a file"),
                       ("zoo/vit-scene", "did you mean 'zoo/vit-scenes'"), ("", "no such model folder")]:  # fmt: skip
        refused_by_command(capfd, here, 2, said, "cat.png", "--model", name)
        refused(Misuse, said, lambda name=name: regard.load(name))


# ---------------------------------------------------------------- for real


def test_the_program_itself(folder, here):
    """Exit code 1 for a failure, as a shell sees it; misuse by the same road is tested in test_cli.py."""
    before = everything(here)
    done = subprocess.run(
        [sys.executable, "-m", "regard", "explain", "cat.png", "--model", folder("nan-vit"), "--out", "out"],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "finite" in one_line(done.stderr, 1)
    assert done.stdout == ""
    assert everything(here) == before
