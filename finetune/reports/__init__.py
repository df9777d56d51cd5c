"""What a finished run leaves for people: plots, metrics, errors, the model card."""
