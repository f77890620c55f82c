"""Putting members into a TOML, JSON or YAML file without losing what is there.

Owns the rules of merging. What is there stays as it is, comments included, where the format can be changed line by
line; the result is read again and compared with both documents merged, and a file that would come out otherwise is left
alone. Earlier contents are kept beside the file, so that a change can be undone.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from trustgate.admin.new_file import new_file
from trustgate.cli.connecting.clients import FileFormat
from trustgate.cli.settings_file import toml
from trustgate.errors import Conflict, OperatorError

_BACKUP = "before-trustgate"
_NOT_THERE = "none"
#: Members by which items of a list are the same.
_NAMES = ("model_name", "name")


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to a file. ``changes``: one line each, values that a member had before in brackets."""

    path: str
    changed: bool
    #: There was no such file before.
    is_new: bool = False
    changes: tuple[str, ...] = ()
    backup: str | None = None


def merge_file(
    path: Path, file_format: FileFormat, members: Mapping[str, Any], own_keys: Iterable[tuple[str, ...]] = ()
) -> FileChange:
    """Put ``members`` into the file, which is made where there is none.

    Args:
        path: the file.
        file_format: how it is written.
        members: what is put into it.
        own_keys: the names, from the top, of members that hold a key of another server, which this one must not get.

    Returns:
        What was changed.

    Raises:
        Conflict: there is such a key, or the file cannot be changed without losing something.
        OperatorError: it cannot be read or written.
    """
    path = _resolved(path)
    had = _read(path)
    before = None if had is None else _decoded(had, path)
    text = merged_text(before or "", file_format, members, path)
    if before is not None and "\r\n" in before:
        text = text.replace("\r\n", "\n").replace("\n", "\r\n")
    data = text.encode()
    old = _parsed(before or "", file_format, path)
    for names in own_keys:
        if _member(old, names):
            raise Conflict(
                f"{path} holds a key in {'.'.join(names)}, which would be sent to this gateway in place of its own.",
                hint="Take that member out of the file first.",
            )
    changes = tuple(_differences(old, _parsed(text, file_format, path)))
    if not changes:
        return FileChange(path=str(path), changed=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = path.stat().st_mode & 0o777 if before is not None else 0o600
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror}.", hint="Check its permissions.") from None
    backup = _backup_path(path, data, exists=had is not None)
    with new_file(backup, force=False) as part:
        part.write_bytes(had or b"")
    with new_file(path, force=True) as part:
        part.write_bytes(data)
    path.chmod(mode)
    return FileChange(path=str(path), changed=True, is_new=before is None, changes=changes, backup=str(backup))


def undo_file(path: Path) -> FileChange:
    """Put back what the file was before the last change.

    Raises:
        Conflict: no earlier content is kept, or the file was changed since, which would be lost.
        OperatorError: the file cannot be written.
    """
    path = _resolved(path)
    kept = sorted(path.parent.glob(f"{glob.escape(path.name)}.{_BACKUP}-*"))
    if not kept:
        raise Conflict(f"There is no earlier content of {path} to put back.")
    backup = kept[-1]
    now = _read(path)
    if now is not None and f"-{_digest(now)}" not in backup.name:
        raise Conflict(
            f"{path} has been changed since it was written, and that would be lost.",
            hint=f"Take what belongs to the gateway out of it by hand; what was there before is in {backup}.",
        )
    try:
        if backup.suffix == f".{_NOT_THERE}":
            path.unlink(missing_ok=True)
            backup.unlink()
            return FileChange(path=str(path), changed=True, changes=("removed: there was no such file before",))
        if path.exists():
            backup.chmod(path.stat().st_mode & 0o777)
        backup.replace(path)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror}.", hint="Check its permissions.") from None
    return FileChange(path=str(path), changed=True, changes=(f"as it was: {backup.name} has taken its place",))


def merged_text(text: str, file_format: FileFormat, members: Mapping[str, Any], path: Path) -> str:
    """Returns a file's text with ``members`` in it. Raises ``Conflict``."""
    old = _parsed(text, file_format, path)
    writers = {"toml": _toml_text, "json": _json_text, "yaml": _yaml_text}
    try:
        wanted = _merged(old, members)
        if wanted == old:
            return text
        made = writers[file_format](text, members, wanted)
        is_whole = made is not None and _parsed_or_none(made, file_format) == wanted and _is_text(made)
    except (ValueError, RecursionError):
        # YAML can hold itself; JSON can hold what is no text, or no number.
        is_whole, made = False, None
    if made is None or not is_whole:
        raise Conflict(
            f"{path} is written in a way that cannot be changed without losing something.",
            hint="Add what is printed without --write by hand.",
        )
    return made


def document_text(file_format: FileFormat, members: Mapping[str, Any]) -> str:
    """Returns a file that holds ``members`` alone."""
    return merged_text("", file_format, members, Path("the file"))


def _resolved(path: Path) -> Path:
    """Returns what a link leads to: the link stays one. Raises ``OperatorError`` for a link that leads to itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # the latter up to Python 3.12
        message = f"{path} is a link that leads to itself."
        raise OperatorError(message, hint="Remove it, or name another --file.") from None


def _read(path: Path) -> bytes | None:
    try:
        # A pipe would be waited for, and a device replaced.
        if path.exists() and not path.is_file():
            raise OperatorError(f"{path} is not a file.", hint="Name another --file.")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}.", hint="Check its permissions.") from None


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Conflict(f"{path} is not UTF-8.", hint="Add what is printed without --write by hand.") from None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _backup_path(path: Path, data: bytes, *, exists: bool) -> Path:
    """Returns where to keep what is there. Its name has the hash of ``data``, which takes its place."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for number in range(1, 1000):
        begin = f"{path.name}.{_BACKUP}-{stamp}-{number:03}"
        if not any(path.parent.glob(f"{glob.escape(begin)}*")):
            name = f"{begin}-{_digest(data)}"
            return path.with_name(name if exists else f"{name}.{_NOT_THERE}")
    raise Conflict(f"There are too many backups of {path}.", hint="Remove the older ones.")


# Documents


def _parsed(text: str, file_format: FileFormat, path: Path) -> dict[str, Any]:
    found = _parsed_or_none(text, file_format)
    if found is None:
        more = {"json": ", has comments, or names something twice", "yaml": ", or names something twice", "toml": ""}
        raise Conflict(
            f"{path} is not {file_format.upper()}{more[file_format]}, so it is left alone.",
            hint="Correct it, or add what is printed without --write by hand.",
        )
    return found


def _parsed_or_none(text: str, file_format: FileFormat) -> dict[str, Any] | None:
    """Returns the document; an empty one for a text without content, None for what is none."""
    try:
        if file_format == "toml":
            return tomllib.loads(text)
        if file_format == "json":
            value = json.loads(text, object_pairs_hook=_once) if text.strip() else {}
        else:
            import yaml

            _refuse_repeated(yaml.compose(text, yaml.SafeLoader))
            value = yaml.safe_load(text)
            value = {} if value is None else value
    except (ValueError, RecursionError):
        return None
    except Exception as error:
        # PyYAML's own exceptions have no base that is imported without it.
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        return None
    return value if isinstance(value, dict) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the members of an object. Raises ``ValueError`` where a name is there twice: one would be lost."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError
    return dict(pairs)


def _refuse_repeated(document: Any) -> None:
    """Raises ``ValueError`` where a YAML mapping has a name twice: programs refuse that, PyYAML takes the last one."""
    nodes, seen = [document], set[int]()
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in seen or isinstance(node.value, str):
            continue
        seen.add(id(node))
        if node.id == "mapping":
            names = [name.value for name, _ in node.value if isinstance(name.value, str)]
            if len(set(names)) != len(names):
                raise ValueError
            nodes += [value for _, value in node.value]
        else:
            nodes += node.value


def _is_text(made: str) -> bool:
    """Returns whether it can be written: JSON can have halves of surrogate pairs."""
    return made.isascii() or not any("\ud800" <= each <= "\udfff" for each in made)


def _merged(old: Mapping[str, Any], members: Mapping[str, Any]) -> dict[str, Any]:
    """Returns both documents as one. Items of lists are one where they have the same name."""
    whole = dict(old)
    for name, value in members.items():
        had = whole.get(name)
        if isinstance(had, dict) and isinstance(value, dict):
            whole[name] = _merged(had, value)
        elif isinstance(had, list) and isinstance(value, list) and value and isinstance(value[0], dict):
            names = [_name_of(item) for item in value]
            whole[name] = [*(item for item in had if _name_of(item) not in names), *value]
        else:
            whole[name] = value
    return whole


def _member(document: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _name_of(item: Any) -> Any:
    return next((item[name] for name in _NAMES if name in item), item) if isinstance(item, dict) else item


def _differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Yields a line for each member that is new or has another value."""
    for name, value in new.items():
        at = f"{place}{name}"
        if name not in old:
            yield f"added {at}"
        elif isinstance(value, dict) and isinstance(old[name], dict):
            yield from _differences(old[name], value, f"{at}.")
        elif value != old[name]:
            plain = isinstance(old[name], str | int | float | bool) and "key" not in name.lower()
            yield f"changed {at} (it was {json.dumps(old[name])})" if plain else f"changed {at}"


# Texts


def _json_text(text: str, members: Mapping[str, Any], wanted: dict[str, Any]) -> str:
    indent = re.search(r'^([ \t]+)"', text, re.MULTILINE)
    return json.dumps(wanted, indent=indent[1] if indent else 2, ensure_ascii=False, allow_nan=False) + "\n"


def _toml_text(text: str, members: Mapping[str, Any], wanted: dict[str, Any]) -> str:
    """Top-level values are replaced in their line, or put before the first table; tables are replaced or added."""
    lines = text.splitlines()
    for name, value in members.items():
        if isinstance(value, dict):
            for inner, table in value.items():
                lines = _with_table(lines, f"{name}.{inner}", table)
        else:
            lines = _with_line(lines, re.compile(rf"\s*{re.escape(name)}\s*="), f"{name} = {toml(value)}", "[")
    return "\n".join(lines) + "\n"


def _with_line(lines: list[str], like: re.Pattern[str], line: str, ends: str) -> list[str]:
    """Returns the lines with ``line`` in place of the one that is ``like`` it, or before what begins with ``ends``."""
    end = next((at for at, each in enumerate(lines) if ends and each.lstrip().startswith(ends)), len(lines))
    for at in range(end):
        if like.match(lines[at]):
            return [*lines[:at], line, *lines[at + 1 :]]
    # After the top-level lines that are there already.
    last = max((at + 1 for at in range(end) if lines[at].strip() and not lines[at].lstrip().startswith("#")), default=0)
    gap = [""] if last < len(lines) and lines[last].strip() and last == 0 else []
    return [*lines[:last], line, *gap, *lines[last:]]


def _with_table(lines: list[str], name: str, table: Mapping[str, Any]) -> list[str]:
    head = re.compile(rf"\s*\[\s*{re.escape(name)}\s*\]\s*(#.*)?$")
    begin = next((at for at, each in enumerate(lines) if head.match(each)), None)
    if begin is None:
        gap = [""] if lines and lines[-1].strip() else []
        return [*lines, *gap, f"[{name}]", *(f"{key} = {toml(value)}" for key, value in table.items())]
    end = next((at for at in range(begin + 1, len(lines)) if lines[at].lstrip().startswith("[")), len(lines))
    inside = lines[begin + 1 : end]
    for key, value in table.items():
        inside = _with_line(inside, re.compile(rf"\s*{re.escape(key)}\s*="), f"{key} = {toml(value)}", "")
    return [*lines[: begin + 1], *inside, *lines[end:]]


def _yaml_text(text: str, members: Mapping[str, Any], wanted: dict[str, Any]) -> str | None:
    """Values at the top are replaced in their line or added; items are added at the end of their list.

    A file without comments is written anew where that does not do.
    """
    import yaml

    lines = text.splitlines()
    for name, value in members.items():
        if not isinstance(value, list):
            line = yaml.safe_dump({name: value}, allow_unicode=True).strip()
            lines = _with_line(lines, re.compile(rf"{re.escape(name)}\s*:"), line, "")
            continue
        begin = next((at for at, each in enumerate(lines) if re.match(rf"{re.escape(name)}\s*:\s*(#.*)?$", each)), None)
        if begin is None:
            lines += [f"{name}:"]
            begin = len(lines) - 1
        first = next((each for each in lines[begin + 1 :] if each.lstrip().startswith("- ")), "  - ")
        margin = first[: len(first) - len(first.lstrip())]
        end = next((at for at in range(begin + 1, len(lines)) if re.match(r"[^\s#-]", lines[at])), len(lines))
        while end > begin + 1 and not lines[end - 1].strip():
            end -= 1
        dumped = yaml.safe_dump(value, sort_keys=False, allow_unicode=True).splitlines()
        lines = [*lines[:end], *(margin + each for each in dumped), *lines[end:]]
    made = "\n".join(lines) + "\n"
    if _parsed_or_none(made, "yaml") == wanted or "#" in text:
        return made
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
