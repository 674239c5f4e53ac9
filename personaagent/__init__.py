"""PersonaAgent: personalised LLM agents with per-user personas, memory and test-time alignment."""

__version__ = "0.1.0"
