"""Starts the process that workers are forked from, which imports torch and all that they need.

Imports are most of a start-up, so `harness.run` starts it first of all and composes and checks meanwhile. A command
that turns out to need no worker ends it again.
"""

import os
import signal
from collections.abc import Sequence
from multiprocessing import forkserver, get_context

from harness.config.schema import Device
from harness.devices.hardware import place_of_environment, planned_device
from harness.devices.process import prepare_process

PRELOAD_CPU = "sweeps.workers.preload"
PRELOAD_CUDA = "sweeps.workers.preload_cuda"
_TRAINING_FLAGS = frozenset({"-m", "--multirun", "--allow-sqlite"})  # the others ask, and train nothing
_DECIDING_KEYS = ("launch=", "launch.launcher=", "launch.dry_run=")


def start_forkserver(device: Device = Device.auto) -> None:
    """Starts the forkserver unless it runs already. Returns at once; the forkserver imports on its own."""
    prepare_process()  # the forkserver inherits it, and preloads torch
    get_context("forkserver").set_forkserver_preload([preload(device)])
    forkserver.ensure_running()


def stop_forkserver() -> None:
    """Ends the forkserver, even in the middle of its imports. No worker may be left."""
    pid: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)  # its own stop waits for the imports
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def preload(device: Device) -> str:
    """The module that the forkserver imports once for all workers."""
    return PRELOAD_CUDA if planned_device(device) is Device.cuda else PRELOAD_CPU


def may_train_here(arguments: Sequence[str]) -> bool:
    """Whether a command line, before it is checked, seems to start workers on this machine."""
    if not arguments or place_of_environment() is not None:
        return False
    flags = {argument for argument in arguments if argument.startswith("-")}
    keys = [argument for argument in arguments if argument.startswith(_DECIDING_KEYS)]
    return flags <= _TRAINING_FLAGS and set(keys) <= {"launch=local", "launch.dry_run=false"}
