"""Stores that a migration walks over: S3, and whatever else fsspec knows.

Each implements ``anykms.migration.targets.Target``; ``anykms.migration.targets.open_target`` finds them by URL.
"""
