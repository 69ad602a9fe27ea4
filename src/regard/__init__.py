"""Regard shows what a Transformer's prediction rests on, and how far to trust the explanation.

    import regard

    reader = regard.load("google/vit-base-patch16-224")     # a hub name, a folder, a zoo name
    explanation = reader.explain("cat.jpg", target="tabby cat")

    explanation = regard.explain(model, inputs)             # any nn.Module, with its own tensors
    explanation.scores, explanation.receipt                 # a score for each token, and what they account for

`inspect` shows what is seen of a model, `methods` lists the methods, `compare` puts their maps side by side, `verify` proves
whose tokens a map is about, `rewrite` shows how small a change makes a picture another class. Every error is a `RegardError`.
Nothing heavy is imported before one of these names is used.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from regard.version import __version__ as __version__

if TYPE_CHECKING:
    from regard.api.causal_later import Explanation as Explanation
    from regard.api.causal_later import Generation as Generation
    from regard.api.explain import explain as explain
    from regard.api.inspect import inspect as inspect
    from regard.attribution.table import methods as methods
    from regard.attribution.table import register as register
    from regard.baseline import Baseline as Baseline
    from regard.editing.rewrite import rewrite as rewrite
    from regard.errors import RegardError as RegardError
    from regard.evaluation.compare import Comparison as Comparison
    from regard.evaluation.compare import compare as compare
    from regard.evaluation.diagnosis import Diagnosis as Diagnosis
    from regard.evaluation.doctor import doctor as doctor
    from regard.evaluation.evaluate import evaluate as evaluate
    from regard.evaluation.posthoc import attention_vs_posthoc as attention_vs_posthoc
    from regard.evaluation.posthoc_agreement import PosthocAgreement as PosthocAgreement
    from regard.evaluation.store.results import Results as Results
    from regard.explanation.receipt import Receipt as Receipt
    from regard.explanation.rewriting import Rewriting as Rewriting
    from regard.guide import Guide as Guide
    from regard.reader import load as load
    from regard.recording.proof.verify import Verification as Verification
    from regard.recording.proof.verify import verify as verify
    from regard.recording.record import record as record
    from regard.site import Site as Site
    from regard.target import Target as Target

HOMES = {
    "Baseline": "baseline",
    "Comparison": "evaluation.compare",
    "Diagnosis": "evaluation.diagnosis",
    "Explanation": "api.causal_later",
    "Generation": "api.causal_later",
    "Guide": "guide",
    "PosthocAgreement": "evaluation.posthoc_agreement",
    "Receipt": "explanation.receipt",
    "RegardError": "errors",
    "Results": "evaluation.store.results",
    "Rewriting": "explanation.rewriting",
    "Site": "site",
    "Target": "target",
    "Verification": "recording.proof.verify",
    "attention_vs_posthoc": "evaluation.posthoc",
    "compare": "evaluation.compare",
    "doctor": "evaluation.doctor",
    "evaluate": "evaluation.evaluate",
    "explain": "api.explain",
    "inspect": "api.inspect",
    "load": "reader",
    "methods": "attribution.table",
    "record": "recording.record",
    "register": "attribution.table",
    "rewrite": "editing.rewrite",
    "verify": "recording.proof.verify",
}
"""The public names, each with the module that it is imported from when it is first used: of what is loaded from files, the one
that can test it on its model."""

__all__ = [*HOMES]


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package, imported when it is first asked for (PEP 562)."""
    if name in HOMES:
        found = getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
    elif not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        found = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*HOMES, "__version__"])
