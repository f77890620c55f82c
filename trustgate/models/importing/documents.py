"""Reading untrusted JSON and YAML files: bounded in size, depth and expansion; errors name the line.

Owns the limits. A message never quotes a file's content, since that may be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from trustgate.errors import SettingsError

#: LiteLLM's table of prices has 2 MB; a configuration is written by hand, and YAML is slow to read.
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_YAML_BYTES = 8 * 1024 * 1024
#: How deep YAML may be nested. PyYAML's parser in C recurses without a limit of its own and would crash.
_MAX_YAML_DEPTH = 100
#: How many values a YAML file may stand for once its anchors are followed: anchors of anchors grow exponentially.
MAX_YAML_VALUES = 500_000


class Document(msgspec.Struct, frozen=True):
    path: Path
    value: Any
    #: The lines where the items of ``model_list`` begin; empty for JSON.
    model_lines: tuple[int, ...] = ()


def refuse(path: Path, what: str, hint: str) -> NoReturn:
    raise SettingsError(f"{path} {what}.", hint=hint)


def load(path: Path) -> Document:
    """Returns the file's content. Raises ``SettingsError`` with the line of a mistake."""
    text = _read_text(path)
    if path.suffix.lower() == ".json" or (path.suffix.lower() not in (".yaml", ".yml") and text.lstrip()[:1] == "{"):
        return Document(path, _parse_json(path, text))
    return _parse_yaml(path, text)


def _read_text(path: Path) -> str:
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            refuse(path, what, "Give the path of the file to import.")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", hint="Check its permissions.") from error
    if len(data) > MAX_FILE_BYTES:
        refuse(path, f"is larger than {MAX_FILE_BYTES // 2**20} MiB", "Is this the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}, line {line}: not UTF-8.", hint="Save the file as UTF-8.") from None


def _parse_json(path: Path, text: str) -> Any:
    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a JSON number")

    try:
        # Decimal keeps prices as they are written.
        return json.loads(text, parse_float=Decimal, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{path}, line {error.lineno}: {error.msg}.", hint="The file must be JSON.") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SettingsError(f"{path} is not valid JSON: {reason}.", hint="The file must be JSON.") from None


def _parse_yaml(path: Path, text: str) -> Document:
    # Imported here: nothing but an import needs it, and it takes some ten milliseconds.
    import yaml

    if len(text) > MAX_YAML_BYTES:
        refuse(path, f"is larger than {MAX_YAML_BYTES // 2**20} MiB", "A LiteLLM configuration is far smaller.")
    # The parser in C, where PyYAML has it, is ten times as fast. Both construct plain values only.
    loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = loader_class(text)
    try:
        _check_depth(path, yaml.parse(text, loader_class))
        root = loader.get_single_node()
        if root is None:
            return Document(path, None)
        if _expanded_size(root) > MAX_YAML_VALUES:
            refuse(path, "stands for too many values once its anchors are followed", "Write the entries out.")
        return Document(path, loader.construct_document(root), tuple(_item_lines(root, "model_list")))
    except yaml.MarkedYAMLError as error:
        # Not str(error), which quotes the line, nor what the problem quotes: that may be a secret.
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        problem = re.sub(r"\s*'.*'", "", error.problem or "not YAML", flags=re.DOTALL)
        raise SettingsError(f"{path}{where}: {problem}.", hint="The file must be YAML.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "unreadable characters or values"
        raise SettingsError(f"{path} is not valid YAML: {reason}.", hint="The file must be YAML.") from None
    finally:
        loader.dispose()


def _check_depth(path: Path, events: Iterable[Any]) -> None:
    depth = 0
    for event in events:
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if depth > _MAX_YAML_DEPTH:
            line = event.start_mark.line + 1
            raise SettingsError(f"{path}, line {line}: nested too deeply.", hint="The file must be YAML.")


def _expanded_size(root: Any) -> int:
    """Returns how many nodes a YAML document has when every alias is written out; a cycle counts as too many."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        sizes[id(node)] = MAX_YAML_VALUES + 1  # what is met again while it is being measured is a cycle
        children = node.value if isinstance(node.value, list) else []
        total = 1
        for child in children:
            total += sum(map(size, child)) if isinstance(child, tuple) else size(child)
        sizes[id(node)] = total
        return total

    return size(root)


def _item_lines(root: Any, key: str) -> Iterator[int]:
    """Yields the line of each item in the list under ``key``."""
    for name, value in root.value if root.id == "mapping" else ():
        if name.value == key and value.id == "sequence":
            yield from (item.start_mark.line + 1 for item in value.value)
