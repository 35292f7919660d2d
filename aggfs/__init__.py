"""aggfs: one folder over several cloud accounts."""
