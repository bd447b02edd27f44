"""How fast the toolkit is: against its peers, and against what the machine can do."""
