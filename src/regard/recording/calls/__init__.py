"""Attention calls: what one kernel call computed, and the attention, the layer-level unit that the formulas mean."""

from regard.recording.calls.call import AttentionCall, Pull, Pulled, Rows, Rule
from regard.recording.calls.layout import Layout

__all__ = ["AttentionCall", "Layout", "Pull", "Pulled", "Rows", "Rule"]
