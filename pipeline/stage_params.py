"""The part of params.yaml that a stage may see, and whether the stage runs in the chosen profile."""

import os
import re
from pathlib import Path

import yaml

from dbq.errors import DbqError

PARAMS_FILE, STAGES_FILE = "params.yaml", "dvc.yaml"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def whole() -> dict:
    """All of params.yaml in the current folder."""
    try:
        params = yaml.load(Path(PARAMS_FILE).read_text(encoding="utf-8"), Loader=LOADER)
    except FileNotFoundError:
        raise DbqError(f"{PARAMS_FILE} is not in {Path.cwd()}", "run the command in the repository's root folder") from None
    except yaml.YAMLError as error:
        raise DbqError(f"{PARAMS_FILE}: {error}", "correct the file") from None
    if not isinstance(params, dict) or "profile" not in params:
        raise DbqError(f"{PARAMS_FILE}: the key `profile` is missing", "set it, e.g. `profile: smoke`")
    return params


def declared(stage: str | None) -> dict:
    """What `params:` in dvc.yaml declares for the stage; without a stage (run by hand) all of params.yaml.

    DVC knows that a stage is out of date only from declared keys, so a notebook sees no others. dvc.api.params_show says the same, but
    resolves every stage of dvc.yaml to do so: 1.7 s for each of 35 stages.
    """
    params = whole()
    if stage is None:
        return params
    name, _, key = stage.partition("@")
    try:
        stages = yaml.load(Path(STAGES_FILE).read_text(encoding="utf-8"), Loader=LOADER)["stages"]
        definition = stages[name]
        if key:
            item = _at(params, definition["foreach"].strip("${} "))[key]
            definition, context = definition["do"], {**params, "key": key, "item": item}
        else:
            context = params
        result: dict = {}
        for dotted in definition["params"]:
            _copy(params, _filled(dotted, context), result)
    except (FileNotFoundError, KeyError, TypeError) as error:
        raise DbqError(f"{STAGES_FILE}: the params of stage {stage} can't be resolved ({error})", "correct the stage") from None
    return result


def _filled(text: str, context: dict) -> str:
    """`text` with each ${a.b} replaced by context[a][b]."""
    return re.sub(r"\$\{([^}]+)\}", lambda match: str(_at(context, match[1].strip())), text)


def _at(tree: dict, dotted: str):
    for part in dotted.split("."):
        tree = tree[part]
    return tree


def _copy(source: dict, dotted: str, target: dict) -> None:
    """target[a][b] = source[a][b] for the dotted key a.b."""
    *path, last = dotted.split(".")
    for part in path:
        source, target = source[part], target.setdefault(part, {})
    target[last] = source[last]


def stage_name() -> str | None:
    """NAME or NAME@KEY when DVC runs this process."""
    return os.environ.get("DVC_STAGE")


def reason_not_to_run(params: dict, dotted: str) -> str | None:
    """Why the stage has nothing to do in params["profile"], or None when it has.

    `dotted` leads to the profile's own entry, which is null or absent where there is nothing to do. Raises DbqError when it leads nowhere.
    """
    value = params
    *path, last = dotted.split(".")
    for depth, part in enumerate([*path, last]):
        if depth == len(path) and isinstance(value, dict) and part not in value:
            return f"{'.'.join(path)} has no entry {part}"
        if not isinstance(value, dict) or part not in value:
            raise DbqError(
                f"{dotted}: no such key among the stage's params", f"add it to {PARAMS_FILE} and to `params:` of the stage in dvc.yaml"
            )
        value = value[part]
    return f"{dotted} is null" if value is None else None


def record_of(params: dict, dotted: str) -> str | None:
    """The digest where `dotted` leads to {recorded: DIGEST} instead of seeds, else None."""
    value = params
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return str(value["recorded"]) if isinstance(value, dict) and set(value) == {"recorded"} else None


def undeclared_key(params: dict, key: str, stage: str | None) -> str | None:
    """The message for a KeyError of `key` in a notebook if params.yaml has the key and the stage doesn't declare it, else None."""
    if stage is None or key in _keys(params) or key not in _keys(whole()):
        return None
    problem = f"the notebook reads the key `{key}` of {PARAMS_FILE}, which stage {stage} doesn't declare"
    return f"{problem} -> add it to `params:` of the stage in dvc.yaml"


def _keys(tree) -> set:
    if not isinstance(tree, dict):
        return set()
    return set(tree).union(*(_keys(value) for value in tree.values()))
