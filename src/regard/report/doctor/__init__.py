"""A `Diagnosis` as a page."""
