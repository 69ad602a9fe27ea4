"""Attention maps against post-hoc maps, as a page."""
