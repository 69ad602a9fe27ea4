"""Grounding and reruns of the zoo's questions, beside what the model's own modules compute with hooks on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard import Target, zoo
from support.regions import RELATION

torch.set_num_threads(1)
SCORE = Target.logit(output="question_answering_score")
LOOKS = [3, 7, 11]  # the calls in which words look at regions


@pytest.fixture(scope="module")
def vqa() -> Any:
    return regard.load("zoo/lxmert-scenes")


@pytest.fixture(scope="module")
def every(vqa: Any) -> tuple[Any, dict[str, Tensor]]:
    """Twelve questions, of every kind, whose asked word names regions."""
    q = zoo.questions()
    rows = [i for i, own in enumerate(q.phrases()) if own]
    first = {q.kinds[i]: i for i in reversed(rows)}
    q = q.select(torch.tensor(sorted({*first.values(), *rows[::25]})))
    ids = vqa.processor(list(q.texts), padding=True, return_tensors="pt", return_token_type_ids=False)
    return q, dict(ids) | q.inputs()


@contextmanager
def maps(model: Any, change: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """While words look at regions, `change(cross block, A)` may put another A (batch, head, word, region) in the place of A."""
    with ExitStack() as stack:
        for i, block in enumerate(model.lxmert.encoder.x_layers):
            visits: list[int] = []

            def hook(_m: Any, _given: Any, A: Tensor, i: int = i, visits: list[int] = visits) -> Tensor | None:
                visits.append(1)
                return change(i, A) if len(visits) % 2 else None  # the second time, regions look at words

            handle = block.visual_attention.att.dropout.register_forward_hook(hook)
            stack.callback(handle.remove)
        yield


def test_the_asked_words_attention_is_the_modules_own(vqa: Any, every: tuple[Any, dict[str, Tensor]]) -> None:
    q, inputs = every
    found = regard.probe.grounding(vqa.model, inputs, SCORE, pairs=q.phrases())
    assert found.layers == LOOKS
    assert found.kl.shape == (3, len(q))
    own: list[Tensor] = []
    with torch.no_grad(), maps(vqa.model, lambda i, A: own.append(A)):
        vqa.model(**inputs)
    rows = torch.arange(len(q)), slice(None), q.asked
    for layer, A in enumerate(own):
        torch.testing.assert_close(found.attention[layer], A[rows].mean(1).double(), rtol=1e-5, atol=1e-6)
    known = torch.stack([torch.isin(torch.arange(8), torch.tensor(own[0][1])) for own in q.phrases()])
    right = known.gather(1, found.attention[2].argmax(1, keepdim=True))[:, 0]
    assert found.pointing[2].tolist() == right.double().tolist()


def test_known_regions_are_put_in_by_hand(vqa: Any, every: tuple[Any, dict[str, Tensor]]) -> None:
    q, inputs = every
    found = regard.probe.grounding(vqa.model, inputs, SCORE, pairs=q.phrases())

    def change(_i: int, A: Tensor) -> Tensor:
        A = A.clone()
        for b, [(at, regions)] in enumerate(q.phrases()):
            A[b, :, at] = 0
            A[b, :, at, list(regions)] = 1 / len(regions)
        return A

    with torch.no_grad():
        before = vqa.model(**inputs).question_answering_score
        with maps(vqa.model, change):
            after = vqa.model(**inputs).question_answering_score
    classes = before.argmax(1, keepdim=True)
    torch.testing.assert_close(found.before, before.gather(1, classes)[:, 0].double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.after, after.gather(1, classes)[:, 0].double(), rtol=1e-5, atol=1e-5)


def test_all_words_at_one_region_and_at_their_own(vqa: Any, every: tuple[Any, dict[str, Tensor]]) -> None:
    q, inputs = every
    words = inputs["input_ids"].shape[1]
    prior = q.source.double()[:, None].expand(-1, words, -1)
    found = regard.probe.rerun(vqa.model, inputs, SCORE, attention={("input_ids", "visual_feats"): prior})
    assert found.calls == tuple(LOOKS)
    even = (prior / prior.sum(-1, keepdim=True)).float()
    with torch.no_grad(), maps(vqa.model, lambda i, A: even[:, None].expand_as(A)):
        after = vqa.model(**inputs).question_answering_score
    assert found.predicted_before is not None
    expected = after.gather(1, found.predicted_before[:, None])[:, 0].double()
    torch.testing.assert_close(found.after, expected, rtol=1e-4, atol=1e-4)
    own = regard.probe.rerun(vqa.model, inputs, SCORE, attention=lambda A, call: A)
    torch.testing.assert_close(own.after, own.before, rtol=1e-5, atol=1e-5)


def test_a_reader_takes_phrases_in_words_and_names_answers(vqa: Any) -> None:
    q = zoo.questions()
    scene = q.scene[RELATION]
    given = {"regions": q.boxes[scene], "pairs": [("the bag", [2]), (6, 2)]}
    found = vqa.probe("grounding", (q.images[scene], q.texts[RELATION]), **given)
    assert [(f.tokens, f.regions, f.said) for f in found.phrases] == [((5, 6), (2,), "the bag"), ((6,), (2,), "bag")]
    assert "trouser stays" in str(found)
    assert len(found.pictures[0].regions) == 8


def test_the_phrases_of_the_zoo_name_what_their_word_says() -> None:
    """A word that is an item's or a colour's name means regions that hold it, and no other item of the scene."""
    q = zoo.questions()
    for i, own in enumerate(q.phrases()):
        assert bool(own) == (bool(q.answers[i]) and int(q.asked[i]) >= 0)
        for at, regions in own:
            word = q.texts[i].split()[at - 1]
            scene = int(q.scene[i])
            for names, held in ((q.item_names, q.items[scene]), (q.colour_names, q.colours[scene])):
                if word in names:
                    assert regions == tuple((held == names.index(word)).nonzero()[:, 0].tolist())
