"""Channels that depend on each other, and models without some of them."""
