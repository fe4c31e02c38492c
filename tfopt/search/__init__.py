"""Search for the bit width of each layer."""
