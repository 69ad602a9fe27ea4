"""Relevance over a recording: rows, the walk over its states, and where the walk begins."""
