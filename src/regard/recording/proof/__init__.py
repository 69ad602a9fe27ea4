"""The proof of provenance: whether a recording is true, tested on the run itself."""
