"""Watch one run of any PyTorch Transformer. Knows nothing of methods or of Hugging Face."""

from regard.recording.calls import AttentionCall, Rows, Rule
from regard.recording.recording import Gradients, Recording, record, record_inputs
from regard.recording.relevance.propagation import Step
from regard.recording.tokens.tracker import Stream

__all__ = ["AttentionCall", "Gradients", "Recording", "Rows", "Rule", "Step", "Stream", "record", "record_inputs"]
