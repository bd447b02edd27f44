"""Models outside of the toolkit: files of several formats, checked against it, with a report."""
