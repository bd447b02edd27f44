"""Command-line options, each declared once and checked in one place.

A file per command lists its options, `common` those that several share; `option` is one of them;
`reader` fills them in from a YAML file (`config_file`) and `flags`.
"""
