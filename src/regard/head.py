"""What the scores at a model's head are: logits of classes that exclude one another, logits of labels that do not, numbers
of a regression, or probabilities already.

A config says it where it can (`problem_type`), the last operation of the run says it where it is a softmax or a sigmoid, and
the user says it with `activation=`. What nobody says is noted on the receipt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import TargetError, nearest

Kind = Literal["softmax", "sigmoid", "score"]
ACTIVATIONS: dict[str, Kind] = {"softmax": "softmax", "sigmoid": "sigmoid"}
PROBLEMS: dict[str, Kind] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "score",
}
SIGMOID = ("ViltForQuestionAnswering", "SiglipModel", "Siglip2Model")
"""Models that are trained with a sigmoid for each score, of which their configs say nothing."""
ONE_SCORE = (
    "the head has one output, which is explained as a score: nothing says whether it is a regression's or the logit "
    "of a yes-or-no answer, whose probability would be its sigmoid"
)
ONE_PROBABILITY = (
    "the head has one output, whose probability is taken to be its sigmoid, as that of a yes-or-no answer: nothing says "
    "whether it is one, and a regression has no probability"
)
MOVES = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Clone", "Alias", "ToCopy", "Slice", "Select")


@dataclass(frozen=True)
class Head:
    """What some scores are.

    Attributes:
        kind: what makes probabilities of them; "score": nothing does.
        made: the operation that the model itself ended with ("softmax", "sigmoid", "log_softmax"), or "".
        one: there is one output a sample. said: the model or the user says what it is.
        several: more than one class may be true of a sample, so that none is "the" predicted one.
    """

    kind: Kind = "softmax"
    made: str = ""
    one: bool = False
    said: bool = True
    several: bool = False

    @property
    def no_class(self) -> bool:
        """Whether outputs stand for no classes."""
        return not self.made and (self.kind == "score" or (self.one and not self.said))

    @property
    def likeliest(self) -> str:
        """What the class is called that nobody named."""
        return "the likeliest class" if self.several else "the predicted class"

    def probability(self, scores: Tensor, *, log: bool) -> Tensor:
        """The probabilities of all classes, or their logarithms. Raises TargetError where there are none."""
        if self.made in ("softmax", "sigmoid"):
            return scores.clamp(min=torch.finfo(scores.dtype).tiny).log() if log else scores
        if self.kind == "score":
            raise TargetError("a regression's outputs have no probability; explain the score itself: Target.logit()")
        if self.kind == "sigmoid":
            return F.logsigmoid(scores) if log else scores.sigmoid()
        return scores.log_softmax(-1) if log else scores.softmax(-1)

    def word(self, kind: str) -> str:
        """What a target is called at this head; `kind`: "logit", "probability" or "log-probability"."""
        if kind == "logit":
            named = {"softmax": "probability", "sigmoid": "probability", "log_softmax": "log-probability"}
            return named[self.made] if self.made else "score" if self.no_class else "logit"
        return f"{kind} (sigmoid)" if self.kind == "sigmoid" and not self.made else kind

    def notes(self, kind: str) -> tuple[str, ...]:
        """What nobody said of the head, and how it was read."""
        if not self.one or self.said or self.made:
            return ()
        return (ONE_SCORE if kind == "logit" else ONE_PROBABILITY,)


ORDINARY = Head()


def head_of(model: nn.Module, scores: Tensor, activation: str | None = None) -> Head:
    """The head of a model whose output holds `scores` (batch, class), or (batch,)."""
    one = scores.ndim == 1 or (scores.ndim == 2 and scores.shape[-1] == 1)
    made = _made(scores)
    said = activation or (_said(model, scores) if scores.ndim <= 2 else None)
    by_itself = made == "sigmoid" or (one and said is None)
    kind: Kind = "sigmoid" if by_itself else (PROBLEMS | ACTIVATIONS)[said or "softmax"]
    several = kind == "sigmoid" and not one and not _known(model)
    return Head(kind, made, one, said is not None, several)


def check_activation(activation: Any) -> None:
    """Raises UnknownName for what is no activation."""
    if activation is not None and activation not in ACTIVATIONS:
        raise nearest(str(activation), ACTIVATIONS, "activation")


def _known(model: nn.Module) -> bool:
    """Whether a model is one of those trained with a sigmoid for each of the answers, of which one is given."""
    return any(c.__name__ in SIGMOID for c in type(model).__mro__)


def _said(model: nn.Module, scores: Tensor) -> str | None:
    """What a model says of its scores."""
    if _known(model):
        return "sigmoid"
    config: Any = getattr(model, "config", None)
    problem = getattr(config, "problem_type", None)
    fits = getattr(config, "num_labels", None) == (scores.shape[-1] if scores.ndim == 2 else 1)
    return problem if fits and problem in PROBLEMS else None


def _made(scores: Tensor) -> str:
    """The last operation of a run, where it made probabilities of logits: told by the graph, movements passed by."""
    node: Any = scores.grad_fn
    while node is not None and node.name().partition("Backward")[0] in MOVES:
        node = node.next_functions[0][0]
    name = "" if node is None else node.name().partition("Backward")[0]
    if name.endswith("oftmax") and node._saved_dim not in (len(node._input_metadata[0].shape) - 1, (1 << 64) - 1):
        return ""  # over another axis than the classes'
    return {"Softmax": "softmax", "Sigmoid": "sigmoid", "LogSoftmax": "log_softmax"}.get(name, "")


__all__ = ["ACTIVATIONS", "ORDINARY", "Head", "check_activation", "head_of"]
