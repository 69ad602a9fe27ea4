"""What tells two classes apart, as a figure and as a page."""
