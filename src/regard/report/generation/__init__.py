"""A generation as a figure and as a page."""
