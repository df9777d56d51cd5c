"""Table files: one file per format, listed in formats.py; separators, quoting, encodings, columns."""
