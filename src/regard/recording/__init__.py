"""Watch one run of any PyTorch Transformer. Knows nothing of methods or of Hugging Face."""

from regard.recording.calls import AttentionCall, Rows, Rule
from regard.recording.recording import Gradients, Recording, record, record_inputs
from regard.recording.tokens import Stream
from regard.recording.walk import Step

__all__ = ["AttentionCall", "Gradients", "Recording", "Rows", "Rule", "Step", "Stream", "record", "record_inputs"]
