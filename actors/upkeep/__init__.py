"""Upkeep of stores that no service uses meanwhile: checks and moves."""
