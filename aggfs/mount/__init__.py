"""FUSE handlers: requests of the kernel become verbs of the engine."""
