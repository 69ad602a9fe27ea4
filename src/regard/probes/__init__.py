"""Questions to one run of a model whose answer is a number, not a map: each a function of its own (formulas.md section 13)."""
