"""Memory shards: each the only writer of its users' memories, and the client that finds a user's shard."""
