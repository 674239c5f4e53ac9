"""The parts of a running system behind the protocols of `personaagent.protocols`."""
