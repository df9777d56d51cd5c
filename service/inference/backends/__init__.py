"""Runtimes: one a file, behind the protocol of base.py."""
