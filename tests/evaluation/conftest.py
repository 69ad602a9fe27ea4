"""The models of the zoo that evaluations are tried on."""

from __future__ import annotations

import pytest

import regard


@pytest.fixture(scope="module")
def vit():
    return regard.load("zoo/vit-scenes")


@pytest.fixture(scope="module")
def bert():
    return regard.load("zoo/bert-sentiment")
