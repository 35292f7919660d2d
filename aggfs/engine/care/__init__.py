"""Keeping what is stored: collecting, scrubbing, checking, making whole."""
