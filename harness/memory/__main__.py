"""The command `python -m harness.memory [--json]`: what LLaMA 7B to 65B need, beside what the paper states."""

import sys

from harness.memory.paper import main

if __name__ == "__main__":
    main(sys.argv[1:])
