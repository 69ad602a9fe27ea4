"""A comparison of maps as a figure and as a page."""
