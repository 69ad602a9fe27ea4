"""Examples from the zoo's own data: what the page shows first, and what can be chosen on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from regard import zoo
from regard.app.shelf import Needs

SENTENCES = (
    "The acting is wonderful, but the story is dull.",
    "It was a wonderful film, and I loved every minute of it, although the ending felt a little rushed.",
    "A tired plot, wooden acting, and not one good joke.",
    "I did not expect to like it, and I was wrong.",
)
QUESTION = ("The key is in the drawer of the kitchen table.", "Where is the key?")
PAIR = ("A wonderful film, and I loved every minute of it.", "The movie was great.")


@dataclass(frozen=True)
class ExampleInput:
    """What a field of the page is filled with. picture: a PIL image with a name; boxes: a line each, as they are typed."""

    name: str
    picture: Any = None
    text: str = ""
    second: str = ""
    boxes: str = ""


def examples_of(name: str, needs: Needs) -> list[ExampleInput]:
    """Those of a model of the zoo; of another model those of the zoo's model that reads the same."""
    return list(_made(name if name in OWN else next(m for m, of in LIKE if of(needs))))


@lru_cache(maxsize=16)
def _made(name: str) -> tuple[ExampleInput, ...]:
    return tuple(OWN[name]())


def _pictures() -> list[ExampleInput]:
    from PIL import Image

    scenes = zoo.scenes()
    with Image.open(zoo.demo_scene()) as two:
        found = [ExampleInput("Trouser and sneaker", _named(two.convert("RGB"), "two items"))]
    first = {int(c): i for i, c in reversed([*enumerate(scenes.labels[:, 0].tolist())]) if bool(scenes.single[i])}
    for c, i in sorted(first.items())[:7]:
        found.append(ExampleInput(scenes.names[c], _image(scenes.images[i], scenes.names[c])))
    return found


def _texts() -> list[ExampleInput]:
    return [ExampleInput(s, text=s) for s in SENTENCES]


def _stories() -> list[ExampleInput]:
    return [ExampleInput(f.prompt, text=f.prompt) for f in zoo.facts(4)]


def _captions() -> list[ExampleInput]:
    found, captions = [], zoo.captions()
    for scene in islice(dict.fromkeys(captions.scene.tolist()), 4):
        at = [i for i, s in enumerate(captions.scene.tolist()) if s == scene]
        texts = list(dict.fromkeys([*(captions.texts[i] for i in at[-2:]), *(captions.twins[i] for i in at[-2:])]))
        found.append(ExampleInput(texts[0], _image(captions.images[scene], f"scene {scene}"), "\n".join(texts)))
    return found


def _prompts() -> list[ExampleInput]:
    answers = zoo.answers()
    return [
        ExampleInput(answers.prompts[i], _image(answers.images[scene], f"scene {scene}"), answers.prompts[i])
        for i, scene in _one_a_kind(answers.kinds, answers.scene.tolist())
    ]


def _one_a_kind(kinds: Sequence[str], scenes: Sequence[int]) -> list[tuple[int, int]]:
    """The first question of each kind whose scene no other one has, five at most: its number, and its scene's."""
    found: dict[str, tuple[int, int]] = {}
    for i, (kind, scene) in enumerate(zip(kinds, scenes, strict=True)):
        if kind not in found and scene not in (s for _, s in found.values()):
            found[kind] = (i, scene)
    return list(found.values())[:5]


def _detections() -> list[ExampleInput]:
    scenes = zoo.detections()
    return [
        ExampleInput(
            " and ".join(scenes.names[c] for c in scenes.labels[i].tolist() if c >= 0),
            _image(scenes.images[i], f"scene {i}"),
        )
        for i in range(6)
    ]


def _questions() -> list[ExampleInput]:
    asked, found = zoo.questions(), []
    for i, scene in _one_a_kind(asked.kinds, asked.scene.tolist()):
        boxes = "\n".join(" ".join(f"{v:.4g}" for v in box) for box in asked.boxes[scene].tolist())
        image = _image(asked.images[scene], f"scene {scene}")
        found.append(ExampleInput(asked.texts[i], image, asked.texts[i], boxes=boxes))
    return found


def _image(pixels: Any, name: str) -> Any:
    from PIL import Image

    return _named(Image.fromarray(pixels.numpy()), name)


def _named(image: Any, name: str) -> Any:
    image.filename = name
    return image


OWN: dict[str, Callable[[], list[ExampleInput]]] = {
    "zoo/vit-scenes": _pictures,
    "zoo/bert-sentiment": _texts,
    "zoo/llama-facts": _stories,
    "zoo/clip-scenes": _captions,
    "zoo/vlm-scenes": _prompts,
    "zoo/detr-scenes": _detections,
    "zoo/lxmert-scenes": _questions,
    "a question": lambda: [ExampleInput(QUESTION[1], text=QUESTION[0], second=QUESTION[1])],
    "a pair": lambda: [ExampleInput(PAIR[1], text=PAIR[0], second=PAIR[1])],
}
"""What makes the examples of each model of the zoo, and of kinds of models that it has none of."""

LIKE: tuple[tuple[str, Callable[[Needs], bool]], ...] = (
    ("zoo/lxmert-scenes", lambda n: n.boxes),
    ("zoo/clip-scenes", lambda n: n.lines),
    ("zoo/vlm-scenes", lambda n: n.picture and bool(n.text)),
    ("zoo/vit-scenes", lambda n: n.picture),
    ("a question", lambda n: n.second == "Question"),
    ("a pair", lambda n: bool(n.second)),
    ("zoo/bert-sentiment", lambda _: True),
)
"""Whose examples a model that is not of the zoo has, by what it reads: the first that fits."""


__all__ = ["ExampleInput", "examples_of"]
