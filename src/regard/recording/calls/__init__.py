"""Attention calls: what one kernel call computed, and the attention, the layer-level unit that the formulas mean."""

from regard.recording.calls.call import AttentionCall, Layout, Pull, Pulled, Rows, Rule

__all__ = ["AttentionCall", "Layout", "Pull", "Pulled", "Rows", "Rule"]
