"""Speed, against other ways and the machine's limits."""
