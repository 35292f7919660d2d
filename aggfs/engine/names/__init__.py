"""The tree of names and attributes, and what of it waits to be published."""
