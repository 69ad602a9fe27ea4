"""Words that carry a value with them."""

from __future__ import annotations

import copy
import pickle

import pytest

from regard.recording.tokens.tags import Entry, Lost, Why, kind_of, stream_of


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_knows_what_the_words_are_about(copied) -> None:
    lost, entry = copied(Lost("given by the length of an axis", Why.AXIS)), copied(Entry("input_ids", 1))
    assert (lost, kind_of(lost)) == ("given by the length of an axis", Why.AXIS)
    assert (entry, stream_of(entry), entry.visit) == ("input_ids#1", "input_ids", 1)


def test_plain_words_are_about_nothing_known() -> None:
    assert kind_of("a reason") is Why.OTHER
    assert stream_of("input_ids") == "input_ids"
