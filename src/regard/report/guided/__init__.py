"""A guide beside the maps without and with it: what there is to draw, and how figures draw it."""

from regard.report.guided.view import GuidedPicture, GuidedText, GuidedView, guided_of

__all__ = ["GuidedPicture", "GuidedText", "GuidedView", "guided_of"]
