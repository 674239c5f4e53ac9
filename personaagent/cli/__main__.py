"""`python -m personaagent.cli`: the same as the console script."""

from personaagent.cli import main

main()
