"""Attention transfer, drawn: who gains what others lose, layer by layer."""
