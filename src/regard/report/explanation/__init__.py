"""An explanation as a figure, a page, and in the terminal."""
