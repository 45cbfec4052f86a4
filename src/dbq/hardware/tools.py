"""The optional tools: Icarus Verilog simulates, Yosys synthesises. Nothing else of the project needs them."""

import re
import shutil
import subprocess
from functools import cache

from dbq.errors import DbqError

# command: (what it is for, Debian package)
TOOLS = {"iverilog": ("simulation", "iverilog"), "vvp": ("simulation", "iverilog"), "yosys": ("synthesis", "yosys")}


def missing() -> list[str]:
    """The commands that are not on the PATH."""
    return [name for name in TOOLS if shutil.which(name) is None]


def find(*names: str) -> None:
    """DbqError where one of the tools is not installed."""
    for name in (name for name in missing() if name in names):
        purpose, package = TOOLS[name]
        raise DbqError(
            f"{name} is not installed, and {purpose} of the hardware needs it", f"`apt-get install {package}` or your system's package"
        )


@cache
def version(name: str) -> str:
    """The number that the tool prints, for example 11.0."""
    printed = subprocess.run([name, "-V"], capture_output=True, text=True, check=False)
    number = re.search(r"\d+(?:\.\d+)+", printed.stdout + printed.stderr)
    return number[0] if number else "unknown"


def run(name: str, arguments: list[str], folder, timeout: float = 3600) -> None:
    """Run a tool in a folder; DbqError with its first complaint when it failed."""
    find(name)
    try:
        done = subprocess.run([name, *arguments], cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise DbqError(f"{name} ran longer than {timeout:.0f} s", "use fewer vectors or a shorter dot product") from None
    if done.returncode:
        lines = (done.stderr + done.stdout).splitlines()
        complaint = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
        raise DbqError(f"{name} failed: {complaint}", f"check the generated text with another version of {name} (this is {version(name)})")
