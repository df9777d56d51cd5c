"""Admission, authentication, limits, telemetry, and the routes."""
