"""Imported by Python as it starts, in every process that a test starts."""

import loopback_only

loopback_only.install()
