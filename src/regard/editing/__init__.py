"""Changes of a picture that are made to learn something of a model; each returns what it did, with what it cost."""
