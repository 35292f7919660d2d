"""Keys, ciphers and erasure codes: blocks become a stripe's fragments, and back. Pure."""
