"""Test-time alignment of personas: the paper's loop, and ours with candidates and an acceptance gate.

Free of Ray: it knows an agent, a memory, an embedder and its settings. Reading order: aligner, search, splits,
candidates, rollouts, scorer, textual, gate, budget; plan says beforehand what it will take.
"""
