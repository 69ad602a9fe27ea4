"""Attention of words to known regions: models that look, with a known share, where their words say; literal twins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard.errors import Misuse, UnknownName
from regard.probes.grounding import kl, pointing
from support.probe_models import REGIONS, WIDTH, Joint, Layers, Merging, Pointing, drawn, joint, pointed

torch.set_num_threads(1)
SHARE = math.exp(2.0) / (math.exp(2.0) + REGIONS - 1)
RIGHT = [[(0, 0), (1, [1])], [([0, 1], 3), (2, 1)]]
WRONG = [[(0, 2), (1, [0])], [([0, 1], 0), (2, 2)]]


def same(found: Tensor, expected: float) -> None:
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0, atol=1e-12)


def test_words_that_look_at_what_they_mean_and_at_what_they_do_not() -> None:
    found = regard.probe.grounding(Pointing(2.0), pointed(), 0, pairs=RIGHT)
    assert (found.query_stream, found.key_stream) == ("input_ids", "regions")
    same(found.on_known, SHARE)
    same(found.kl, -math.log(SHARE))
    same(found.pointing, 1.0)
    same(found.on_regions, 1.0)
    same(found.chance, 1 / REGIONS)
    same(found.kl_even, math.log(REGIONS))
    wrong = regard.probe.grounding(Pointing(2.0), pointed(), 0, pairs=WRONG)
    same(wrong.pointing, 0.0)
    same(wrong.on_known, (1 - SHARE) / (REGIONS - 1))
    same(wrong.kl, -math.log((1 - SHARE) / (REGIONS - 1)))


def test_even_attention_is_at_chance_by_every_number() -> None:
    found = regard.probe.grounding(Pointing(0.0), pointed(), 0, pairs=[[(0, [0, 1])], [(1, 2)]])
    torch.testing.assert_close(found.kl[0], found.kl_even)
    torch.testing.assert_close(found.on_known[0], found.chance)
    torch.testing.assert_close(found.pointing[0], found.chance)
    assert found.kl_even.tolist() == pytest.approx([math.log(2), math.log(4)])


@pytest.mark.parametrize("loop", [False, True])
def test_each_head_points_where_it_was_built_to(loop: bool) -> None:
    """Of two heads the second looks at the region after the one that is meant; the mean has half of both."""
    found = regard.probe.grounding(Pointing(2.0, heads=2, loop=loop), pointed(), 0, pairs=RIGHT)
    assert [h.tolist() for h in found.head_pointing] == [[1.0, 0.0]]
    same(found.on_known, (SHARE + (1 - SHARE) / (REGIONS - 1)) / 2)
    same(found.on_regions, 1.0)
    maps = Pointing(2.0, heads=2).maps(**pointed()).mean(1).detach()
    expected = torch.stack([maps[0, 0], maps[0, 1], maps[1, :2].mean(0), maps[1, 2]])
    torch.testing.assert_close(found.attention[0], expected)
    assert found.rows()[0].best_head == 0


def test_kl_and_pointing_are_those_of_their_definitions() -> None:
    q, p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    assert float(kl(q, p)) == pytest.approx(0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.3))
    assert float(kl(q, q)) == 0
    assert float(kl(q, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))) == math.inf
    tied = torch.tensor([[0.4, 0.4, 0.2]], dtype=torch.float64)
    assert pointing(tied, torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)).tolist() == [0.5]


def test_the_known_regions_in_the_place_of_attention() -> None:
    """Phrases read the value of their known region; other words go on as they did. A word of two phrases means both."""
    model, given = Pointing(2.0), pointed()
    pairs = [[(0, 2)], [([0, 1], [0, 1]), (1, 3)]]
    found = regard.probe.grounding(model, given, 1, pairs=pairs)
    value, A = given["regions"][..., REGIONS + 1], model.maps(**given)[:, 0].detach()
    seen = (A * value[:, None]).sum(-1)
    q = torch.tensor([0.25, 0.25, 0, 0.5], dtype=torch.float64)
    first = (value[0, 2] + seen[0, 1] + seen[0, 2]) / 3
    second = ((value[1, 0] + value[1, 1]) / 2 + q @ value[1] + seen[1, 2]) / 3
    torch.testing.assert_close(found.after, torch.stack([first, second]), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.before, seen.mean(1), rtol=0, atol=1e-12)


def test_words_and_regions_in_one_sequence() -> None:
    """The share of the regions is brought to sum 1 for the numbers, and alone shared out anew for the prior."""
    model, given = Joint(), joint()
    found = regard.probe.grounding(model, given, 0, pairs=[[([0, 2], [1, 3])], [(1, 0)]], query_stream="input_ids")
    own: list[Tensor] = []
    model(**given, twin=lambda i, A: own.append(A.detach()) or A)
    for layer, A in enumerate(own):
        on = A.mean(1)[..., 4:]
        rows = torch.stack([on[0, [1, 3]].mean(0), on[1, 2]])
        torch.testing.assert_close(found.on_regions[layer], rows.sum(-1))
        torch.testing.assert_close(found.attention[layer], rows / rows.sum(-1, keepdim=True))

    def twin(i: int, A: Tensor) -> Tensor:
        out = A.clone()
        for b, row, known in ((0, 1, [1, 3]), (0, 3, [1, 3]), (1, 2, [0])):
            for h in range(2):
                share = A[b, h, row, 4:].sum()
                out[b, h, row, 4:] = 0
                out[b, h, row, [4 + k for k in known]] = share / len(known)
        return out

    torch.testing.assert_close(found.after, model(**given, twin=twin)[:, 0].detach(), rtol=0, atol=1e-12)


def test_a_sample_alone_says_what_it_says_among_others() -> None:
    given, pairs = joint(), [[(0, 1)], [(1, [2, 3])]]
    both = regard.probe.grounding(Joint(), given, 0, pairs=pairs)
    for b in range(2):
        one = regard.probe.grounding(Joint(), {k: t[b : b + 1] for k, t in given.items()}, 0, pairs=pairs[b : b + 1])
        for name in ("attention", "on_regions", "on_known", "kl", "pointing"):
            torch.testing.assert_close(getattr(one, name)[:, 0], getattr(both, name)[:, b])
        torch.testing.assert_close(one.after, both.after[b : b + 1])


def test_merged_features_share_what_is_looked_at() -> None:
    """Two features in one row get half each of what it gets; a prior on one of them is one on their row."""
    model, given = Merging(), {"input_ids": torch.tensor([[1, 4]]), "feats": drawn(1, 6, WIDTH)}
    found = regard.probe.grounding(model, given, 0, pairs=[[(0, [2]), (1, [4, 5])]])
    merged = model.merged(given["feats"]).detach()
    A = torch.softmax(model.words(given["input_ids"]) @ merged.mT, -1)[0].detach()
    torch.testing.assert_close(found.attention[0], A.repeat_interleave(2, -1) / 2)
    torch.testing.assert_close(found.after, merged[:, [1, 2], 0].mean(1))


def test_masks_name_tokens_too_and_phrases_have_names() -> None:
    word, region = torch.tensor([False, True, False]), torch.tensor([True, False, False, True])
    by_mask = regard.probe.grounding(Pointing(), pointed(), 0, pairs=[[(word, region, "a word")], []])
    by_number = regard.probe.grounding(Pointing(), pointed(), 0, pairs=[[(1, [0, 3])], []])
    torch.testing.assert_close(by_mask.kl, by_number.kl)
    assert (by_mask.phrases[0].said, by_number.phrases[0].said) == ("a word", "token 1")


def test_a_page_and_a_table(tmp_path: Path) -> None:
    pairs = [[(0, 0, "<b>one"), (1, [1])], [([0, 1], 3), (2, 1)]]
    found = regard.probe.grounding(Pointing(2.0), pointed(), 0, pairs=pairs)
    text = found.to_html(tmp_path / "grounding.html").read_text("utf-8")
    assert "100 % of 4 phrases look most at a region that they mean; by chance 25 % would." in text
    assert "&lt;b&gt;one" in text
    assert "<b>one" not in text
    assert len(str(found).splitlines()) == 1 + 3 + 1 + 3


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([[(0, 0)]], "for each of 2 samples, not 1 lists"),
        ("bag", "for each of 2 samples, not str"),
        ([(0, 0), (1, 1)], r"a pair is \(tokens, regions\), by number, or \(tokens, regions, name\); not '0'"),
        ([[], []], "no pair is given"),
        ([[(0, 9)], []], "9 names no tokens of 'regions': give numbers from 0 to 3, or a mask"),
        ([[(0, [])], []], "names no tokens of 'regions'"),
        ([[(0.5, 0)], []], "0.5 names no tokens of 'input_ids'"),
        ([[("bag", 0)], []], "bag names no tokens of 'input_ids'"),
        ([[(0, [True])], []], "names no tokens of 'regions'"),
        ([[0], []], r"a pair is \(tokens, regions\)"),
    ],
)
def test_pairs_that_do_not_fit(pairs: Any, said: str) -> None:
    with pytest.raises(Misuse, match=said):
        regard.probe.grounding(Pointing(), pointed(), pairs=pairs)


def test_what_else_is_refused() -> None:
    with pytest.raises(Misuse, match="not clear which stream is the text"):
        regard.probe.grounding(Layers(), drawn(1, 3, 6), pairs=[[(0, 0)]])
    with pytest.raises(Misuse, match="token 2 of 'input_ids' in sample 1 is padding"):
        regard.probe.grounding(Joint(), joint(), pairs=[[], [(2, 0)]])
    with pytest.raises(UnknownName, match="unknown stream 'feat'"):
        regard.probe.grounding(Joint(), joint(), pairs=[[(0, 0)], []], key_stream="feat")
    with pytest.raises(Misuse, match="cannot be the text and the regions at once"):
        regard.probe.grounding(Joint(), joint(), pairs=[[(0, 0)], []], key_stream="input_ids")
    with pytest.raises(Misuse, match="the probe 'grounding' needs pairs="):
        regard.probe.named("grounding")
