"""The HTTP API: what lets requests in, what they hold, and what they are answered."""
