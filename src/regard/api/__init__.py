"""The public verbs: from a model and its inputs to an explanation."""
