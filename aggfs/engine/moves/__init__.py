"""Moving what is stored: between accounts, to another code, out of mostly dead stripes."""
