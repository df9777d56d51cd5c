"""Restrict every process that a test starts to loopback: Python imports this module at startup."""

import loopback_only

loopback_only.install()
