"""Verify that a file holds what the settings and the stages promised."""
