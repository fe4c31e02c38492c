"""Channel pruning: models with fewer channels, smaller and faster on every device."""
