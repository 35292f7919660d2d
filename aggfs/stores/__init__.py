"""Accounts: the store contract, the drivers, and the wrappers around them."""
