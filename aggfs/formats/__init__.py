"""Bytes and records: what lies in an account or in the local state. Pure."""
