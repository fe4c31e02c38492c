"""Students that learn from themselves or from each other: no other model is needed."""
