"""The local state: LMDB, sparse files, staging."""
