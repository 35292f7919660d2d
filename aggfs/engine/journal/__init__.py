"""The journal as this device writes it: entries, segments, checkpoints, headers."""
