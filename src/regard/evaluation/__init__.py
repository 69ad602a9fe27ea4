"""Is it right? Protocols as pure functions: (explanations, model, data) -> rows; a summary reduces rows (EVALUATION.md)."""
