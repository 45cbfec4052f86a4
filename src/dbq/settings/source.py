"""Reading params.yaml strictly: what YAML would accept silently is an error that names the file, the line and the remedy."""

import json
import re
from pathlib import Path

from dbq.errors import DbqError

LARGEST = 1_000_000  # bytes
KEY = re.compile(r"[a-z0-9][a-z0-9_.-]{0,79}")  # of data sets, starts and rows: they name files and stages
KEY_RULE = "use lower-case letters, digits, `_`, `-` and `.`, at most 80 characters, a letter or a digit first"


def read(path="params.yaml") -> dict:
    """The mapping in params.yaml, or in a JSON file for machines without PyYAML.

    Raises DbqError for a missing, empty or damaged file, a key that stands twice, an anchor, an alias and a tag.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise DbqError(f"{path}: more than {LARGEST:,} bytes", "name the params.yaml of the project")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DbqError(f"{path}: no such file", "run from the root of the repository, or name the file") from None
    except UnicodeDecodeError as error:
        raise DbqError(f"{path}: byte {error.start} is not UTF-8", "save it as UTF-8") from None
    except OSError as error:
        raise DbqError(f"{path}: {error.strerror}", "name a file that can be read") from None
    value = _json(text, path) if path.suffix == ".json" else _yaml(text, path)
    if not isinstance(value, dict):
        raise DbqError(f"{path}: {'empty' if value is None else 'not a mapping of keys'}", "restore it with `git checkout params.yaml`")
    return value


def _json(text: str, path: Path):
    try:
        return json.loads(text)
    except ValueError as error:
        raise DbqError(f"{path}: not valid JSON ({error})", "mend the line that it names") from None


def _yaml(text: str, path: Path):
    import yaml

    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken)):
                raise DbqError(f"{path}, line {token.start_mark.line + 1}: anchors, aliases and tags are not used here", "write `extends`")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_doubles(root, path)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DbqError(f"{path}{line}: not valid YAML ({reason})", "mend the line; indent with spaces, quote what begins with *") from None
    except (RecursionError, ValueError) as error:
        raise DbqError(f"{path}: not valid YAML ({type(error).__name__})", "mend it, or `git checkout params.yaml`") from None


def _refuse_doubles(node, path: Path) -> None:
    """Raises DbqError where a mapping has a key twice: YAML would take the last one silently."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                lines = f"lines {seen[key.value]} and {key.start_mark.line + 1}"
                raise DbqError(f"{path}, {lines}: the key {key.value} stands twice", "remove one of them")
            if isinstance(key, yaml.ScalarNode):
                seen[key.value] = key.start_mark.line + 1
            _refuse_doubles(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_doubles(item, path)
