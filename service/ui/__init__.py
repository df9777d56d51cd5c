"""The page: a tab each in tabs/, put together in build.py."""
