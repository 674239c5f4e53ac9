"""Tools that the agent acts with: what a tool is, who provides them, and the bounds within which they are called."""
