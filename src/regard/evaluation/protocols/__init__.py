"""Protocols: one question about maps in each file."""
