"""Run one notebook as a stage: strict parameters, live output, an executed notebook and its HTML page.

    PYTHONPATH=src python pipeline/run_notebook.py notebooks/engine.ipynb --key resnet20-cifar10-dbq-2t \\
        --out runs/smoke/notebooks/engine-resnet20-cifar10-dbq-2t.ipynb --html runs/smoke/html/engine-resnet20-cifar10-dbq-2t.html \\
        --run-in experiments.resnet20-cifar10-dbq-2t.seeds.smoke --set model=runs/smoke/models/quantize-resnet20-cifar10-dbq-2t.pt \\
        --result metrics=runs/smoke/metrics/engine/resnet20-cifar10-dbq-2t/

The notebook gets `profile` and `params` (the keys of params.yaml that the stage declares), `key`, and the names of --set and --result.
Exit status: 0 done or not run in this profile, 1 the notebook failed, 2 it could not be started, 130 interrupted. See pipeline/README.md.
"""

import argparse
import os
import re
import signal
import sys
import threading
from pathlib import Path

import not_run
import notebook_parameters
import recorded
import stage_params
from dbq.errors import DbqError, main_with_errors

TRACEBACK_LINES = 20  # the whole of it stands in the kept notebook


def main() -> None:
    arguments = _arguments()
    profile = stage_params.whole()["profile"]
    stage = stage_params.stage_name()
    params = stage_params.declared(stage)
    parameters = {"profile": profile, "params": params, **arguments.parameters}
    notebook_parameters.check(arguments.notebook, parameters)
    if "profile" not in params:
        raise DbqError(f"stage {stage} doesn't declare `profile`", "add it to `params:` of the stage in dvc.yaml")
    outputs = [*arguments.results, arguments.html, arguments.out]
    if arguments.run_in and (digest := stage_params.record_of(params, arguments.run_in)):
        recorded.restore(params, Path(arguments.notebook).stem, arguments.key, digest, outputs)
        print(f"recorded: {digest}, taken from results/{profile}")
        return
    if arguments.run_in and (reason := stage_params.reason_not_to_run(params, arguments.run_in)):
        not_run.write(outputs, reason)
        print(f"not run: {reason}")
        return
    name = stage or Path(arguments.notebook).stem + (f"@{arguments.key}" if arguments.key else "")
    failed = Path("runs") / profile / "failed" / (name.replace("@", "-") + ".ipynb")
    if not _execute(arguments, parameters, failed, stage):
        sys.exit(1)


def _execute(arguments, parameters: dict, failed: Path, stage: str | None) -> bool:
    """Execute the notebook in `failed` and move it to its place; False when a cell raised (the notebook stays, and is named)."""
    # papermill and nbconvert cost 0.3 s and 0.5 s to import: not run in this profile shouldn't pay for them
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    from kernel import RunningInterpreter, Surroundings

    # the page's libraries load while the kernel starts
    threading.Thread(target=lambda: __import__("report_html"), daemon=True).start()
    # a batch system that ends the job mustn't leave the kernel's folder behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed.parent.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    page = failed.with_suffix(".html")
    page.unlink(missing_ok=True)
    error = None
    try:
        with Surroundings():
            execute_notebook(
                arguments.notebook,
                failed,
                parameters,
                kernel_name="python3",
                language="python",
                kernel_manager_class=RunningInterpreter,
                shutdown_kernel="immediate",
                progress_bar=False,
                stdout_file=sys.stdout,
                stderr_file=sys.stderr,
            )
    except PapermillExecutionError as raised:
        error = raised
    except RuntimeError as raised:  # nbclient's DeadKernelError
        raise DbqError(
            f"{arguments.notebook}: the kernel stopped ({raised})", f"free some memory; what had run by then is in {failed}"
        ) from None
    sys.stdout.flush()

    import nbformat

    import report_html

    notebook = nbformat.read(failed, as_version=4)
    report_html.tidy(notebook)
    title = " ".join([Path(arguments.notebook).stem, *([arguments.key] if arguments.key else []), parameters["profile"]])
    nbformat.write(notebook, failed)
    report_html.write(notebook, page, parameters, title)
    if error is not None:
        print(f"error: {_message(error, parameters, stage)}", file=sys.stderr)
        print(f"the notebook as far as it ran: {failed}, to read in a browser: {page}", file=sys.stderr)
        return False
    _check_results(arguments, failed)
    for source, target in ((failed, arguments.out), (page, arguments.html)):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    return True


def _check_results(arguments, failed: Path) -> None:
    """Raises DbqError unless every result of the finished notebook exists; a folder has to hold something."""
    for result in arguments.results:
        path = Path(result)
        if not path.exists() or (result.endswith("/") and not any(path.iterdir())):
            raise DbqError(f"{arguments.notebook} ended without writing {result}", f"write it in the notebook; what it did is in {failed}")


def _message(error, parameters: dict, stage: str | None) -> str:
    """One line for an error that a user is meant to read, the end of the traceback for any other."""
    if error.ename == "DbqError":
        return error.evalue
    if error.ename == "KeyError":
        key = error.evalue.strip("'\"")
        if message := stage_params.undeclared_key(parameters["params"], key, stage):
            return message
    lines = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).splitlines()
    return "\n".join([f"{error.ename} in code cell {error.exec_count}", *lines[-TRACEBACK_LINES:]])


class _Named(argparse.Action):
    """name=value, collected in the namespace's `parameters`; a name given twice is an error."""

    def __call__(self, parser, namespace, text, option_string=None):
        name, separator, value = text.partition("=")
        if not separator or not name.isidentifier() or not value:
            parser.error(f"{option_string} {text}: expected name=value")
        if name in (*namespace.parameters, "profile", "params", "key"):
            parser.error(f"{option_string} {text}: {name} is passed already")
        namespace.parameters[name] = value.rstrip("/")
        if self.dest == "result":
            namespace.results.append(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run one notebook as a stage.", allow_abbrev=False)
    parser.add_argument("notebook", help="the notebook's file")
    parser.add_argument("--key", help="passed as `key`: which data set, network or experiment")
    parser.add_argument("--out", required=True, help="where the executed notebook goes")
    parser.add_argument("--html", required=True, help="where its page goes")
    parser.add_argument(
        "--run-in", help="key of params.yaml: the profile's entry, which may be null or absent; otherwise 'not run' is written"
    )
    parser.add_argument("--set", action=_Named, metavar="NAME=VALUE", help="passed to the notebook, as text")
    parser.add_argument(
        "--result", action=_Named, metavar="NAME=PATH", help="passed to the notebook, which has to write it; PATH/ is a folder"
    )
    parser.set_defaults(parameters={}, results=[])
    arguments = parser.parse_args()
    if arguments.key:
        arguments.parameters["key"] = arguments.key
    return arguments


if __name__ == "__main__":
    sys.exit(main_with_errors(main))
