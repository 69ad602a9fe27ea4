"""Units of an input (words, patches, regions), and how they are taken away."""
