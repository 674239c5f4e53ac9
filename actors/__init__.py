"""Actors of the Ray cluster, and what they keep on disk: users' memories, and the pool that aligns personas."""
