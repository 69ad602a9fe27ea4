"""Provenance: whose tokens the rows of each tensor are, carried through every operation of a run."""
