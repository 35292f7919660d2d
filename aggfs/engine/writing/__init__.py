"""Writing: a frozen dirty set becomes stripes, and their fragments reach the accounts."""
