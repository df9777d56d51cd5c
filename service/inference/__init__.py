"""Texts to scores: the engine, its queue, and the runtimes below it."""
