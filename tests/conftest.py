"""Shapes and types of every annotated function are checked while testing (jaxtyping + beartype)."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
from jaxtyping import install_import_hook

pytest.register_assert_rewrite("checks")

install_import_hook(
    ["regard.recording", "regard.attribution", "regard.explanation", "regard.target"], "beartype.beartype"
)
