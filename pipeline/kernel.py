"""The kernel that executes a notebook: the running interpreter, whatever kernels and start-up files the user has installed."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec

LONGEST_SOCKET = 90  # characters; operating systems allow 103 to 107, and the ports' numbers follow


class RunningInterpreter(AsyncKernelManager):
    """A kernel manager that looks no kernel spec up: a `python3` spec of another environment would win over ours.

    It talks over sockets in the folder of Surroundings: two kernels that start at once can't take each other's TCP port.
    """

    def __init__(self, **settings):
        super().__init__(**settings)
        socket = str(Path(os.environ["IPYTHONDIR"]) / "kernel")
        if len(socket) < LONGEST_SOCKET:
            self.transport, self.ip = "ipc", socket

    @property
    def kernel_spec(self) -> KernelSpec:
        # frozen modules stay on (the spec of ipykernel turns them off for debuggers): they start faster
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


class Surroundings:
    """A context in which the kernel's environment is the same for every user: no profile, no start-up scripts, one hash seed."""

    def __enter__(self):
        self.before = dict(os.environ)
        self.folder = tempfile.mkdtemp(prefix="dbq-kernel-")
        os.environ.pop("PYTHONSTARTUP", None)
        os.environ["IPYTHONDIR"] = self.folder
        os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        os.environ.setdefault("PYTHONHASHSEED", "0")

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)
        os.environ.clear()
        os.environ.update(self.before)
