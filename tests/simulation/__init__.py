"""A deterministic simulation of the memory service: the real code on a clock, a network and a store that a seed decides."""
