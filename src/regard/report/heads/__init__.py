"""Each head's own map as a page."""
