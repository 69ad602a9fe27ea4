"""What probes found, as pages."""
