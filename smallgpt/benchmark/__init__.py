"""Speed of the toolkit, against other implementations and the limits of the machine."""
