"""The command `python -m harness.memory [--model 65b [--measure]]`: what finetuning a model needs."""

import sys

from harness.memory.command import main

if __name__ == "__main__":
    main(sys.argv[1:])
