"""Options of the commands, each declared once and checked in one place.

A file for each command lists its options (`training`, `inference`, `preparation`, `benchmark`; what
they share is in `common`), `option` is one of them, `reader` fills them in from `config_file` and
`flags`.
"""
