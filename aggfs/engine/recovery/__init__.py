"""Bringing a volume back from its accounts and a key."""
