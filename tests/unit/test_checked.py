"""The checks of types and shapes are at work: what is of another type or shape is refused, here as in all tests."""

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from regard.recording.tokens.cells import Cells, lattice, owners
from regard.recording.tokens.tags import constant


def test_a_wrong_type_is_refused():
    with pytest.raises(BeartypeCallHintViolation):
        constant(torch.zeros(2, dtype=torch.int64), "0")


def test_a_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError):
        lattice(torch.zeros(2, 2, dtype=torch.int64), (4, 4))


def test_a_wrong_shape_in_a_dataclass_is_refused():
    with pytest.raises(TypeCheckError):
        Cells(2, (2, 2), torch.zeros(2, 2, dtype=torch.int64))


def test_shapes_of_several_arguments_are_held_against_each_other():
    with pytest.raises(TypeCheckError):
        owners(4, torch.zeros(2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.int64))
