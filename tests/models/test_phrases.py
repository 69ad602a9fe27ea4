"""Phrases in words, found in the tokens of a text."""

from __future__ import annotations

import pytest

from regard.errors import Misuse
from regard.explanation.raw_inputs import Reading, Text
from regard.models.phrases import phrases_in, tokens_of

TEXT = Text(
    text="A red scarf, a Red car",
    tokens=["[CLS]", "a", "red", "scar", "##f", ",", "a", "red", "car", "[SEP]"],
    offsets=[(0, 0), (0, 1), (2, 5), (6, 10), (10, 11), (11, 12), (13, 14), (15, 18), (19, 22), (0, 0)],
    words=[(0, 1), (2, 5), (6, 11), (11, 12), (13, 14), (15, 18), (19, 22)],
    special=[True, *[False] * 8, True],
)


@pytest.mark.parametrize(
    ("phrase", "tokens"),
    [("red", [2, 7]), ("car", [8]), ("red  car", [7, 8]), ("scarf", [3, 4]), ("ar", [3, 8]), ("a red", [1, 2, 6, 7])],
)
def test_whole_words_where_there_are_such_in_any_case(phrase: str, tokens: list[int]) -> None:
    assert tokens_of(TEXT, phrase) == tokens


@pytest.mark.parametrize("phrase", ["blue", "", " "])
def test_words_that_are_not_there(phrase: str) -> None:
    with pytest.raises(Misuse, match="the text does not hold the words"):
        tokens_of(TEXT, phrase)


def test_pairs_of_one_text_and_of_several() -> None:
    one, two = (Reading(inputs={}, raw={"input_ids": [TEXT] * n}) for n in (1, 2))
    assert phrases_in(one, [("car", 3), (2, [1]), ([2, 3], 0)]) == [
        [([8], 3, "car"), (2, [1], "red"), ([2, 3], 0, "red scar")]
    ]
    assert phrases_in(two, [[("car", 3)], []]) == [[([8], 3, "car")], []]
    for reading, pairs in ((one, 3), (one, "car"), (two, [("car", 3)]), (two, [1, 2])):
        with pytest.raises(Misuse, match=r"pairs is a list of \(phrase, regions\)"):
            phrases_in(reading, pairs)


def test_which_text() -> None:
    with pytest.raises(Misuse, match="no text was read"):
        phrases_in(Reading(inputs={}), [("car", 3)])
    both = Reading(inputs={}, raw={"a": [TEXT], "b": [TEXT]})
    with pytest.raises(Misuse, match="several texts were read"):
        phrases_in(both, [("car", 3)])
    assert phrases_in(both, [("car", 3)], "b") == [[([8], 3, "car")]]
