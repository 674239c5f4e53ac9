"""The model's engine. Everything that imports vLLM is here."""
