"""Evaluate files: reports, contents, differences, speed."""
