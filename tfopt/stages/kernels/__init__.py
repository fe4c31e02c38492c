"""Which weights of which layers a stage works on, and what it promises for them."""
