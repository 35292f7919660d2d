"""The only room that knows every part: it makes volumes, and opens them."""
