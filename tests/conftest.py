"""What is in tests/ and is no test of this project."""

collect_ignore = ["stranger"]
