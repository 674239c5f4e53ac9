"""Alignment as jobs: the pool of actors, whole populations, online alignment, and what runs leave on disk."""
