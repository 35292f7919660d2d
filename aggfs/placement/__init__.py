"""Which account gets which fragment, and how much fits. Pure."""
