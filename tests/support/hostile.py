"""Hostile calls of the command line, drawn by a seed: files of every kind that it reads, spoilt, and options of every kind.

`call(number, ...)` writes what one call needs into a folder and gives its arguments. The same number gives the same call.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FORMATS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}
MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LA", "YCbCr"]
SCRIPT = "<script>alert(1)</script>"
STRANGE = [
    "", " ", "\n\t", "a", SCRIPT, "<img src=x onerror=alert(1)>", "\u202eabc\u202c", "\u0301" * 40, "שלום עולם",
    "السلام", "👩🏽\u200d🚀🇦🇶", "\ufeffa", "a\u200bb", "\x1b[31mred\x1b[0m", "a\x07b", "fa\udce7ade", "\ud83d", "=1+1",
    "@cmd", "{}", "%s%n", "../..", "a" * 5000, "word " * 400, "\u2028line", "\r\nline", "NaN", "-1", "1e999", "0x10",
    "9" * 400, "None", "null", "[MASK]", "<s></s><pad>", "[CLS] [SEP]", "~", "~/x", "C:\\x", "a/b", "*", "[a-z", "?",
    "--", "-", "'", "\"", "\\", "file:///etc/passwd", "http://x.org/a.png", "data:image/png;base64,AAAA", "great movie",
    "the movie",
]  # fmt: skip
"""What a text, a label or a name can be."""
NUMBERS = [
    "0", "-1", "1", "3", "1.5", "1e9", "1000000000", "99999999999999999999", "nan", "inf", "-inf", "", "x", "0x1", "１",
    "1,2", "true", "null", "[1]", "1_000", "64MB", "0.5GB", "-3MB", "1e400", "4/255", "1/0", "0/1",
]  # fmt: skip
OUTS = [
    "out", "out/deep/er", ".", "..", "file", "file/below", "dangling", "loop", "/dev/null", "/dev/null/x",
    "/proc/self/x", "o" * 300, "a\nb", "\x1b[31m", "fa\udce7ade", "~", "out/report.html", " ", "full",
]  # fmt: skip
METHODS = [
    "gae", "rollout", "raw_attention", "gradient", "input_x_gradient", "random", "gea", "", ",", "GAE", "gae,gae",
    "kernel_shap", "tam", "maskclip", "interaction", "token_activation_map", "grad_cam", "attnlrp", SCRIPT,
]  # fmt: skip
OPTIONS = [
    "start_layer", "heads", "form", "steps", "grid", "tolerance", "most", "samples", "sigma", "reduce", "sign",
    "correction", "layers", "path", "hops", "fusion", "unit", "window", "stride", "gamma", "map", "of", "guide",
    "nothing", "centred",
]  # fmt: skip
PATHS = [
    "missing.png", "folder", "dangling", "loop", "pipe", "pipe.png", "/dev/null", "/dev/zero", "empty.txt", "file", "n" * 300,
    "./none", "plain.png/x", "plain.png", "plain.txt", "..", ".", "*.png", "plain.*", "folder/*", "-",
]  # fmt: skip
"""Files that are odd. Folders lie in that of the call: what is named is read."""
COMMANDS = ["compare", "transfer", "heads", "inspect", "rewrite", "attention-vs-posthoc", "probe"]


@dataclass(frozen=True)
class Call:
    """One call of the command line.

    kind: what is hostile in it. arguments: without the program's name. stdin: what it reads there. model: whose reader may
    stand for loading; "" where the folder that is named is to be loaded.
    """

    kind: str
    arguments: list[str]
    stdin: bytes = b""
    model: str = ""


@dataclass(frozen=True)
class Given:
    """What calls are drawn from: by name the folders of models that are well, and files that are well, as bytes."""

    folders: Mapping[str, Path]
    files: Mapping[str, bytes]


def call(number: int, given: Given, seed: int = 0) -> Call:
    """The call of a number; its files are written into the working folder."""
    draw = random.Random(f"{seed} {number}")
    kind = draw.choice([name for name, weight in KINDS.items() for _ in range(weight)])
    _things()
    return WAYS[kind](draw, given)


def _things() -> None:
    """What stands in every working folder, beside what the call itself needs."""
    Path("file").write_text("mine")
    Path("folder").mkdir()
    Path("empty.txt").write_bytes(b"")
    Path("dangling").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    os.mkfifo("pipe.png")
    Path("plain.png").write_bytes(_picture(random.Random(1), "png", "RGB"))
    Path("plain.txt").write_text("the movie\n")
    Path("full").mkdir()
    Path("full/report.html").mkdir()


# ---------------------------------------------------------------- spoilt bytes


def spoilt(draw: random.Random, data: bytes) -> bytes:
    """The same bytes, cut, flipped, doubled, mixed up or put in the place of others."""
    ways: Sequence[Callable[[], bytes]] = (
        lambda: data[: draw.randrange(len(data) + 1)],
        lambda: data[draw.randrange(len(data) + 1) :],
        lambda: _flipped(draw, data, draw.choice([1, 3, 20, 200])),
        lambda: data + data,
        lambda: data + draw.randbytes(draw.choice([1, 100, 5000])),
        lambda: draw.randbytes(draw.choice([0, 1, 10, 1000])),
        lambda: data.replace(
            draw.choice([b"0", b"1", b"e", b":", b'"', b","]), draw.choice([b"", b"\0", b"9" * 30, b"\xff"])
        ),
        lambda: b"".join(draw.sample([data[i : i + 64] for i in range(0, len(data), 64)], -(-len(data) // 64))),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.decode("latin-1").encode("utf-16"),
        lambda: data,
    )
    return draw.choice(ways)()


def _flipped(draw: random.Random, data: bytes, count: int) -> bytes:
    out = bytearray(data)
    for _ in range(count if data else 0):
        out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return bytes(out)


def _value(draw: random.Random, depth: int = 0) -> Any:
    """Any JSON value, and what only Python takes for one."""
    leaf: Sequence[Any] = [None, True, 0, -1, 1.5, 1e300, 10**30, float("nan"), float("inf"), *draw.sample(STRANGE, 3)]
    if depth > 2 or draw.random() < 0.5:
        return draw.choice(leaf)
    several = [_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return (
        several
        if draw.random() < 0.5
        else {draw.choice(["role", "content", "messages", "text", "x"]): v for v in several}
    )


def mutated(draw: random.Random, value: Any) -> Any:
    """A JSON value with one of its parts replaced, left out or added."""
    if draw.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return _value(draw)
    if isinstance(value, list):
        at = draw.randrange(len(value))
        return [mutated(draw, v) if i == at else v for i, v in enumerate(value)]
    name = draw.choice(list(value))
    way = draw.randrange(6)
    if way == 0:
        return {k: v for k, v in value.items() if k != name}
    if way == 1:
        return value | {draw.choice([*STRANGE, "new"]): _value(draw)}
    return value | {name: mutated(draw, value[name])}


# ---------------------------------------------------------------- files


def _picture(draw: random.Random, suffix: str, mode: str | None = None) -> bytes:
    """A picture in some mode and format, or none where the format has no such mode."""
    size = draw.choice([(40, 30), (1, 1), (1, 300), (300, 1), (7, 5), (400, 300)])
    mode = mode or draw.choice(MODES)
    noise = np.frombuffer(draw.randbytes(size[0] * size[1] * 3), np.uint8).reshape(size[1], size[0], 3)
    image = Image.fromarray(noise)
    try:
        image = image.convert("L").convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
        made = io.BytesIO()
        more: dict[str, Any] = {}
        if suffix in ("gif", "webp", "tif") and draw.random() < 0.3:
            more = {"save_all": True, "append_images": [image.copy() for _ in range(2)]}
        with warnings.catch_warnings():  # of modes that Pillow will write no more
            warnings.simplefilter("ignore", DeprecationWarning)
            image.save(made, FORMATS[suffix], **more)
        return made.getvalue()
    except (OSError, ValueError, KeyError):
        return _picture(draw, suffix, "RGB")


def _huge(draw: random.Random) -> bytes:
    """A PNG whose header says that it is enormous."""
    data = bytearray(_picture(random.Random(1), "png", "L"))
    data[16:24] = draw.choice([2**31 - 1, 100_000, 20_000]).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def _written(draw: random.Random, suffixes: Sequence[str], data: bytes) -> str:
    stem = draw.choice(["a", "b c", SCRIPT.replace("/", "_"), "fa\udce7ade", "x" * 100, "-", ".hidden", "=1", "a\nb"])
    name = f"./{stem}.{draw.choice(suffixes)}"
    Path(name).write_bytes(data)
    return name


def _more(draw: random.Random, how: float = 0.3) -> list[str]:
    """Options that go with any explanation, spoilt now and then."""
    found: list[str] = []
    ways: Sequence[Callable[[], list[str]]] = (
        lambda: ["--method", draw.choice(METHODS)],
        lambda: ["--target", draw.choice(STRANGE + NUMBERS)],
        lambda: ["--against", draw.choice(STRANGE + NUMBERS)],
        lambda: ["--token", draw.choice(STRANGE + NUMBERS)],
        lambda: ["--option", f"{draw.choice(OPTIONS)}={draw.choice(NUMBERS + STRANGE)}"],
        lambda: ["--option", draw.choice(STRANGE)],
        lambda: ["--site", draw.choice(["input", "block[0]", "block[99]", "block[-1]", "attention:all", *STRANGE])],
        lambda: [
            "--baseline",
            draw.choice(["zero", "blur", "blur:x", "noise:3", "mask", "pad", "mean", "zero:local", *STRANGE]),
        ],
        lambda: ["--memory-budget", draw.choice(NUMBERS)],
        lambda: ["--threshold", draw.choice(NUMBERS)],
        lambda: ["--truncate"],
        lambda: ["--text", draw.choice([*STRANGE, "plain.txt", "empty.txt", "folder"])],
        lambda: ["--image", draw.choice(PATHS)],
        lambda: ["--regions", draw.choice(PATHS)],
        lambda: ["--labels", draw.choice(PATHS)],
        lambda: ["--template", draw.choice(STRANGE)],
        lambda: ["--generate", draw.choice(NUMBERS)],
        lambda: ["--answer", draw.choice(STRANGE)],
        lambda: [
            "--guide",
            draw.choice([*STRANGE, "contrast", "box:0,0,1,1", "box:1,0,0,nan", "words:movie", "plain.png"]),
        ],
        lambda: ["--json", draw.choice(["data.json", "-", *OUTS])],
        lambda: ["--csv", draw.choice(["data.csv", "-", *OUTS])],
        lambda: ["--column", draw.choice(STRANGE)],
        lambda: ["--resume"],
    )
    while draw.random() < how:
        found += draw.choice(ways)()
    return found


def _explain(draw: random.Random, value: Sequence[str], model: str, given: Given, how: float = 0.3) -> list[str]:
    drawn = [] if draw.random() < 0.04 else ["--no-page"]
    out = draw.choice(OUTS) if draw.random() < 0.1 else "out"
    return [
        "explain",
        *value,
        "--model",
        str(given.folders[model]),
        "--out",
        out,
        "--no-test",
        *drawn,
        *_more(draw, how),
    ]


# ---------------------------------------------------------------- kinds of calls


def _of_pictures(draw: random.Random, given: Given) -> Call:
    suffix = draw.choice([*FORMATS])
    data = _huge(draw) if draw.random() < 0.1 else _picture(draw, suffix)
    name = _written(draw, [suffix, *FORMATS, "txt"] if draw.random() < 0.2 else [suffix], spoilt(draw, data))
    return Call("picture", _explain(draw, [name], "vit", given, 0.15), model="vit")


def _of_paths(draw: random.Random, given: Given) -> Call:
    model = draw.choice(["vit", "bert", "gpt2"])
    values = [draw.choice(PATHS) for _ in range(draw.choice([1, 1, 1, 2, 3]))]
    stdin = draw.choice([b"", b"the movie", b"\xff\xfe", _picture(draw, "png"), spoilt(draw, _picture(draw, "png"))])
    return Call("path", _explain(draw, values, model, given), stdin, model)


def _of_texts(draw: random.Random, given: Given) -> Call:
    model = draw.choice(["bert", "gpt2"])
    words = "".join(draw.choice(STRANGE) for _ in range(draw.choice([1, 1, 2, 4])))
    if draw.random() < 0.02:
        words = draw.choice(["x", "ab ", "é"]) * 500_000
        Path("large.txt").write_text(words)
        words = "large.txt"
    return Call("text", _explain(draw, [words], model, given, 0.4), model=model)


def _of_text_files(draw: random.Random, given: Given) -> Call:
    model = draw.choice(["bert", "gpt2"])
    name = _written(
        draw, ["txt", "md", "json", "png"], spoilt(draw, "".join(draw.sample(STRANGE, 4)).encode("utf-8", "replace"))
    )
    return Call("text file", _explain(draw, [name], model, given), model=model)


def _table(draw: random.Random) -> tuple[str, bytes]:
    rows = [
        {"text": draw.choice(STRANGE), "label": draw.choice(STRANGE), "n": _value(draw)}
        for _ in range(draw.randrange(4))
    ]
    if draw.random() < 0.5:
        lines = [json.dumps(mutated(draw, r) if draw.random() < 0.5 else r) for r in rows]
        return "jsonl", "\n".join(lines).encode()
    made = io.StringIO()
    writer = csv.writer(made)
    writer.writerows(
        [["text", "label"], *([str(r["text"]), str(r["label"]), "more"][: draw.choice([1, 2, 3])] for r in rows)]
    )
    return "csv", made.getvalue().encode("utf-8", "replace")


def _of_tables(draw: random.Random, given: Given) -> Call:
    suffix, data = _table(draw)
    name = _written(draw, [suffix], spoilt(draw, data) if draw.random() < 0.5 else data)
    column = draw.choice([["--column", "text"], ["--column", draw.choice(STRANGE)], []])
    label = draw.choice([[], [], ["--label", "label"], ["--label", draw.choice(STRANGE)]])
    model = draw.choice(["bert", "bert", "vit"])
    return Call("table", _explain(draw, [name, *column, *label], model, given, 0.1), model=model)


CHAT = [
    {"role": "user", "content": "what is it ?"},
    {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
]


def _of_chats(draw: random.Random, given: Given) -> Call:
    chat: Any = draw.choice([CHAT, {"messages": CHAT, "tools": []}, CHAT[:1]])
    for _ in range(draw.randrange(3)):
        chat = mutated(draw, chat)
    data = json.dumps(chat).encode()
    name = _written(draw, ["json"], spoilt(draw, data) if draw.random() < 0.3 else data)
    value = ["--chat", name] if draw.random() < 0.5 else [name]
    model = draw.choice(["gpt2", "gpt2", "bert", "vit"])
    return Call("chat", _explain(draw, value, model, given, 0.2), model=model)


def _of_options(draw: random.Random, given: Given) -> Call:
    model = draw.choice(["vit", "bert", "gpt2"])
    value = "plain.png" if model == "vit" else "the movie"
    return Call("options", [*_explain(draw, [value], model, given, 0.0), *_more(draw, 0.75)], model=model)


def _of_models(draw: random.Random, given: Given) -> Call:
    """A model's folder with one file spoilt; it is really loaded."""
    name = draw.choice(["vit", "bert", "gpt2"])
    shutil.copytree(given.folders[name], "model")
    files = sorted(Path("model").iterdir())
    file = draw.choice(files)
    way = draw.randrange(6)
    if way == 0:
        file.unlink()
    elif way == 1 and file.suffix == ".json":
        file.write_text(json.dumps(mutated(draw, json.loads(file.read_text()))))
    elif way == 2:
        shards = {"a": draw.choice(["pytorch_model.bin", "../x.safetensors", "model.safetensors", *STRANGE])}
        (Path("model") / "model.safetensors").unlink()
        index = mutated(draw, {"metadata": {}, "weight_map": shards}) if draw.random() < 0.5 else {"weight_map": shards}
        (Path("model") / "model.safetensors.index.json").write_text(json.dumps(index))
        (Path("model") / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch PWNED'\ntR.")
    elif way == 3:
        config = Path("model/config.json")
        config.write_text(json.dumps(mutated(draw, json.loads(config.read_text()))))
    else:
        file.write_bytes(spoilt(draw, file.read_bytes()))
    value = "plain.png" if name == "vit" else "the movie"
    return Call("model", ["explain", value, "--model", "model", "--out", "out", "--no-test", "--no-page"])


def spoilt_file(draw: random.Random, data: bytes) -> bytes:
    """A file of `save`, with a part of its header replaced, its tensors called otherwise, or its bytes spoilt."""
    if draw.random() > 0.7:
        return spoilt(draw, data)
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])
    meta = head["__metadata__"]
    if draw.random() < 0.7:
        meta["json"] = json.dumps(mutated(draw, json.loads(meta["json"])))
    else:
        head = mutated(draw, head)
    made = json.dumps(head).encode()
    return len(made).to_bytes(8, "little") + made + data[8 + length :]


def _of_saved(draw: random.Random, given: Given) -> Call:
    """A saved explanation that steers another."""
    Path("map.safetensors").write_bytes(spoilt_file(draw, given.files["saved"]))
    arguments = _explain(draw, ["plain.png", "--guide", "map.safetensors"], "vit", given, 0.0)
    return Call("saved", arguments, model="vit")


def _of_outs(draw: random.Random, given: Given) -> Call:
    out = draw.choice(OUTS)
    what = draw.choice([["--out", out], ["--json", out], ["--csv", out], ["--out", out, "--json", draw.choice(OUTS)]])
    arguments = ["explain", "the movie", "--model", str(given.folders["bert"]), "--no-test", *what]
    return Call("out", arguments + (["--no-page"] if draw.random() < 0.7 else []), model="bert")


def _of_resumed(draw: random.Random, given: Given) -> Call:
    Path("out").mkdir()
    data = given.files["journal"]
    made = json.dumps(mutated(draw, json.loads(data))).encode() if draw.random() < 0.6 else spoilt(draw, data)
    Path("out/index.json").write_bytes(made)
    arguments = ["explain", "the movie", "a movie", "--model", str(given.folders["bert"]), "--no-test", "--no-page"]
    return Call("resumed", [*arguments, "--out", "out", "--resume"], model="bert")


def _of_commands(draw: random.Random, given: Given) -> Call:
    command = draw.choice(COMMANDS)
    model = draw.choice(["vit", "bert"]) if command != "rewrite" else "vit"
    value = draw.choice(["plain.png" if model == "vit" else "the movie", draw.choice(PATHS), draw.choice(STRANGE)])
    own: list[str] = {
        "probe": [draw.choice(["shortcut", "correspondence", "heads", "grounding", "rerun", "nothing"])],
        "rewrite": ["--to", draw.choice([*STRANGE, "1", "2"]), "--budget", draw.choice(NUMBERS)],
        "transfer": ["--layer", draw.choice(NUMBERS)] if draw.random() < 0.5 else [],
        "heads": ["--method", draw.choice(["gae", "x"])] if draw.random() < 0.5 else [],
        "attention-vs-posthoc": ["--top", draw.choice(NUMBERS)],
        "compare": ["--methods", draw.choice(METHODS), "--sites", draw.choice(["input", "", *STRANGE])],
    }.get(command, [])
    out = [] if command == "inspect" else ["--out", draw.choice([*OUTS, "x.html", "x.png"])]
    first = [own[0], value] if command == "probe" else [value, *own]
    return Call(command, [command, *first, "--model", str(given.folders[model]), *out], model=model)


def _of_theory(draw: random.Random, given: Given) -> Call:
    """A classifier of `regard theory`, spoilt; text that is none."""
    Path("classifier").mkdir()
    for name in ("config.json", "model.safetensors"):
        data = given.files[f"theory/{name}"]
        if name == "config.json" and draw.random() < 0.6:
            data = json.dumps(mutated(draw, json.loads(data))).encode()
        elif draw.random() < 0.5:
            data = spoilt(draw, data)
        Path(f"classifier/{name}").write_bytes(data)
    # the sentence has no words, so that a classifier that is well is refused, too: examining one takes half a minute
    return Call("theory", ["theory", "--classifier", "classifier", "--text", "word " * 500, "--out", "out"])


WAYS: dict[str, Callable[[random.Random, Given], Call]] = {
    "pictures": _of_pictures,
    "paths": _of_paths,
    "texts": _of_texts,
    "text files": _of_text_files,
    "tables": _of_tables,
    "chats": _of_chats,
    "options": _of_options,
    "models": _of_models,
    "saved": _of_saved,
    "outs": _of_outs,
    "resumed": _of_resumed,
    "commands": _of_commands,
    "theory": _of_theory,
}
KINDS = {
    "pictures": 5,
    "paths": 3,
    "texts": 4,
    "text files": 2,
    "tables": 3,
    "chats": 3,
    "options": 5,
    "models": 2,
    "saved": 4,
    "outs": 2,
    "resumed": 2,
    "commands": 2,
    "theory": 1,
}
"""How often each way is drawn."""
