"""Which layer takes how many bits."""
