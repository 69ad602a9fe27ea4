"""Watch one run of any PyTorch Transformer. Knows nothing of methods or of Hugging Face."""

from regard.recording.calls import AttentionCall, Rows, Rule
from regard.recording.recording import Gradients, Recording, Step, record
from regard.recording.tokens import Stream

__all__ = ["AttentionCall", "Gradients", "Recording", "Rows", "Rule", "Step", "Stream", "record"]
