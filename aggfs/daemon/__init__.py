"""The life of a mount, and the socket that the commands talk to."""
