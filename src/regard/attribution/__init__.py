"""Methods: each a short function of a recording, one paper, one file; `table.py` lists them."""
