"""Results of protocols as figures and as a page."""
