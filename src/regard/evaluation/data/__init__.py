"""Data sets that protocols are run on."""
