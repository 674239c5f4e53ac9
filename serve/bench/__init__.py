"""Every benchmark, with its load and its peers."""
