"""Execute the notebook of a stage: strict parameters, live output, checked results, an executed notebook and its page."""

import os
import re
import signal
import sys
import threading
from pathlib import Path

import parameters
from dbq.errors import DbqError
from lifeline import end_with_parent
from stage import Job, fresh, write_not_run

TRACEBACK_LINES = 20  # the whole of it stands in the kept notebook


def run(job: Job) -> None:
    """Raises DbqError for a notebook that doesn't fit its parameters or leaves a result out, and SystemExit(1) where a cell raised."""
    source = Path("notebooks", f"{job.stage}.ipynb")
    passed = {"settings_file": str(job.settings_file), **{name: str(folder) for name, folder in job.folders.items()}}
    parameters.check(source, passed)
    for folder in (*job.folders.values(), *job.data, job.reports):
        fresh(folder)
    job.failed.parent.mkdir(parents=True, exist_ok=True)
    job.failed.unlink(missing_ok=True)
    page = job.failed.with_suffix(".html")
    page.unlink(missing_ok=True)
    error = _execute(source, job.failed, passed)

    import nbformat

    from dbq.report import pages

    notebook = nbformat.read(job.failed, as_version=4)
    tidy(notebook)
    nbformat.write(notebook, job.failed)
    title = " ".join([job.stage, *([job.key] if job.key else []), job.profile])
    pages.write_notebook_page(notebook, page, title=title, parameters=passed)
    if error is not None and error.ename == "NotRun":
        job.failed.unlink()
        page.unlink()
        write_not_run(job, error.evalue)
        print(f"not run: {error.evalue}")
        return
    if error is not None:
        print(f"error: {_message(error)}", file=sys.stderr)
        print(f"the notebook as far as it ran: {job.failed}, to read in a browser: {page}", file=sys.stderr)
        sys.exit(1)
    for path in job.results:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            raise DbqError(f"{source} ended without writing {path}", f"write it in the notebook; what it did is in {job.failed}")
    os.replace(job.failed, job.reports / "report.ipynb")
    os.replace(page, job.reports / "report.html")


def run_report(job: Job) -> None:
    """The stage `report` is no notebook: it puts the others' pages together."""
    from dbq.report import index
    from dbq.settings.stage import load

    stage = load(job.settings_file)
    index.publish(stage.plan, stage.inputs["runs"], Path("results", job.profile))


def _execute(source: Path, target: Path, passed: dict):
    """Execute a notebook into `target`; return papermill's error if a cell raised."""
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    from kernel import RunningInterpreter, isolated_environment

    # the page's libraries load while the kernel starts
    threading.Thread(target=lambda: __import__("dbq.report.pages"), daemon=True).start()
    # a batch system that ends the job mustn't leave the kernel and its folder behind
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    if "DVC_STAGE" in os.environ:
        end_with_parent()
    try:
        with isolated_environment():
            execute_notebook(
                source,
                target,
                passed,
                kernel_name="python3",
                language="python",
                kernel_manager_class=RunningInterpreter,
                shutdown_kernel="immediate",
                progress_bar=False,
                stdout_file=sys.stdout,
                stderr_file=sys.stderr,
            )
    except PapermillExecutionError as error:
        return error
    except RuntimeError as error:  # nbclient's DeadKernelError
        raise DbqError(f"{source}: the kernel stopped ({error})", f"free some memory; what had run by then is in {target}") from None
    finally:
        sys.stdout.flush()
    return None


def tidy(notebook) -> None:
    """Take what differs between two equal runs out of an executed notebook: time stamps, durations, random cell names."""
    notebook.metadata.pop("papermill", None)
    for place, cell in enumerate(notebook.cells):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"
        elif "papermill-error" in "".join(cell.metadata.get("tags", [])):
            cell["id"] = f"papermill-error-{place}"


def _message(error) -> str:
    """One line for an error that a user is meant to read, the end of the traceback for any other."""
    if error.ename in ("DbqError", "Faults"):
        return error.evalue
    lines = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).splitlines()
    return "\n".join([f"{error.ename} in code cell {error.exec_count}", *lines[-TRACEBACK_LINES:]])
