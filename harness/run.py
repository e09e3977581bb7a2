"""The command `python -m harness.run`: a grid of finetuning runs, or one.

    python -m harness.run model=smollm2 dataset=concise                 one run
    python -m harness.run -m model=llama7b,13b dataset=oasst1,flan       four runs
    python -m harness.run -m +experiment=demo                            a named experiment
    python -m harness.run -m +grid=table5                                a table of the paper (sweeps/grid/)
    python -m harness.run -m model=7b dataset=flan launch.dry_run=true   the plan only
    python -m harness.run -m +experiment=demo launch=slurm launch.slurm.partition=gpu    on a cluster (or launch=ray)
    python -m harness.run --help                                         groups and keys

What it does, in order: checks the command line, composes every grid point, plans, checks that all that is
needed is there, trains what is not done yet, evaluates, says what came of it. Running it again goes on.
"""

import sys

from harness.devices.process import heavy_imports
from sweeps.workers.forkserver import may_train_here, start_forkserver

if __name__ == "__main__" and may_train_here(sys.argv[1:]):
    start_forkserver()  # it imports torch while the rest here is imported, composed and checked

with heavy_imports():
    from sweeps.run import main

if __name__ == "__main__":
    main()
