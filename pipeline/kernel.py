"""The kernel that executes a notebook: the running interpreter, whatever kernels and start-up files the user has installed."""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec

from lifeline import PR_SET_PDEATHSIG

LONGEST_SOCKET = 90  # characters; operating systems allow 103 to 107, and the ports' numbers follow
FOLDER = "dbq-kernel-"
# ipykernel notices the death of its parent between two statements of Python; a long multiplication would go on for minutes
LAUNCH = f"""
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGKILL)})
    if os.getppid() != int(os.environ["JPY_PARENT_PID"]):
        sys.exit("the runner has ended")
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


class RunningInterpreter(AsyncKernelManager):
    """A kernel manager that looks no kernel spec up: a `python3` spec of another environment would win over ours.

    It talks over sockets in the folder of `isolated_environment`: two kernels that start at once can't take each other's TCP port.
    """

    def __init__(self, **settings):
        super().__init__(**settings)
        self.connection_file = str(Path(os.environ["IPYTHONDIR"]) / "kernel.json")
        socket = str(Path(os.environ["IPYTHONDIR"]) / "kernel")
        if len(socket) < LONGEST_SOCKET:
            self.transport, self.ip = "ipc", socket

    @property
    def kernel_spec(self) -> KernelSpec:
        # frozen modules stay on (the spec of ipykernel turns them off for debuggers): they start faster
        return KernelSpec(argv=[sys.executable, "-c", LAUNCH, "-f", "{connection_file}"], display_name="Python 3", language="python")


@contextlib.contextmanager
def isolated_environment() -> Iterator[None]:
    """Environment variables that are the same for every user: no profile, no start-up script, one hash seed, one thread.

    One thread, because a stage runs beside others: two processes of two threads on two cores slow each other down many times over. A
    training sets the number of its threads itself, as its settings say.
    """
    _remove_abandoned()
    before, folder = dict(os.environ), tempfile.mkdtemp(prefix=FOLDER)
    lock = _locked(folder)
    try:
        os.environ.pop("PYTHONSTARTUP", None)
        os.environ |= {"IPYTHONDIR": folder, "PYDEVD_DISABLE_FILE_VALIDATION": "1", "OMP_NUM_THREADS": "1"}
        os.environ.setdefault("PYTHONHASHSEED", "0")
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        os.environ.clear()
        os.environ.update(before)


def _locked(folder) -> int | None:
    """A descriptor that holds the folder's lock, or None where a living process holds it. Its end frees the lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned() -> None:
    """Remove the folders of runs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        with contextlib.suppress(OSError):
            if folder.is_dir() and (lock := _locked(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
