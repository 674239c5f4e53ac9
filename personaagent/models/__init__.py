"""Chat models and embedders: where their files are, and how they are called."""
