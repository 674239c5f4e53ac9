"""Answering a turn: what the model is shown, what it may do, and what is kept of the answer."""
