"""Reading: what is here, what has to be fetched, and the files that programs have open."""
