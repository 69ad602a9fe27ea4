"""Rewritten pictures as a figure and as a page, and how much it takes to rewrite many."""
