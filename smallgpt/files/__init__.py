"""Files: read with distrust, written whole."""
