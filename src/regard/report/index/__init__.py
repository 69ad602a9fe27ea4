"""Many inputs on one page: what the model made of each, with a way to its own page."""
