"""A base's body under a new head."""
