"""Methods that read gradients, along a path from a baseline or at one point."""
