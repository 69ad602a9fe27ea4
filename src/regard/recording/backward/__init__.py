"""Rules of the backward pass: how a gradient flows through an operation of some kind, while values stay the model's own.

formulas.md sections 4 and 11. `rules` has the table of what a rule set may say and applies it to each operation of a watched
run; `made_of` recognises norms, activations and gates in what a model writes by hand; `attention` rebuilds the backward pass
of attention in tiles; `functions` has what torch's graph is told.
"""

from __future__ import annotations

from regard.recording.backward.attention import AttentionRule, Correctable, Correction, guide_of
from regard.recording.backward.rules import Backward, RuleSet

__all__ = ["AttentionRule", "Backward", "Correctable", "Correction", "RuleSet", "guide_of"]
