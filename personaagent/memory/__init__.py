"""A user's memory: what is read in, changed, ranked and exported, and the store that keeps it, as a protocol."""
