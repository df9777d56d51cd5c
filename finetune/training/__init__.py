"""Losses, optimizers, batches, and the Trainer around a model."""
