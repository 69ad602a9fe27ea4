"""Watch one run of any PyTorch Transformer. Knows nothing of methods or of Hugging Face."""

from regard.recording.calls import AttentionCall, Rows, Rule
from regard.recording.gradient import Gradients
from regard.recording.record import record, record_inputs
from regard.recording.recording import Recording
from regard.recording.relevance.propagation import Step
from regard.recording.tokens.tags import Stream

__all__ = ["AttentionCall", "Gradients", "Recording", "Rows", "Rule", "Step", "Stream", "record", "record_inputs"]
