"""The Ray Serve application: model, embedder and HTTP router; and the local system that runs it."""
