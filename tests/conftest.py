"""Shapes and types of every annotated function are checked while testing (jaxtyping + beartype)."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import importlib.util

import pytest

from support import browser as browsing
from support import checked

if importlib.util.find_spec("timm") is None:  # it has an environment of its own: make test-timm
    collect_ignore = ["support/timm_sweep.py"]


@pytest.fixture(scope="module")
def browser():
    """Chromium, for the tests of one file."""
    with browsing.chromium() as one:
        yield one


pytest.register_assert_rewrite("support.checks")

checked.check(
    "regard.recording", "regard.attribution", "regard.explanation", "regard.editing", "regard.target", "regard.theory"
)
