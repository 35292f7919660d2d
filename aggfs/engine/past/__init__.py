"""The past: versions, trash, the volume as it was, clones."""
