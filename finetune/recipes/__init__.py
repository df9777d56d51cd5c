"""Complete configs, one per use, and the conversion of a base that they start from."""
