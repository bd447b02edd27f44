"""Options of the commands: config.yaml, flags, --help."""
