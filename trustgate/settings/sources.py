"""Where settings come from: defaults < ``trustgate.toml`` < ``TRUSTGATE_*`` variables < flags.

What is unknown or out of range is refused, with the file and line, the variable or the flag that it stands in.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from trustgate.errors import HomeUnusable, SettingsError
from trustgate.formats.likeness import most_like
from trustgate.settings.record import Settings
from trustgate.settings.sections import SECTIONS
from trustgate.settings.values import check_value

#: Variables of this program that are not settings: where home is, how to reach a server far away, how to debug.
_RESERVED = frozenset(
    {"TRUSTGATE_HOME", "TRUSTGATE_URL", "TRUSTGATE_ADMIN_KEY", "TRUSTGATE_DEBUG", "TRUSTGATE_UNPACK_DIR"}
)

#: The settings that name a variable with a key in it.
_KEY_VARIABLES = ("upstream.key_env", "admin.key_env", "metrics.key_env", "otlp.headers_env", "store.password_env")


def load_settings(home: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings of a home folder; None means ``TRUSTGATE_HOME`` or the platform's user data folder.

    ``overrides`` are flags: names like ``serve.port`` to values, None for flags that were not given.
    Raises ``SettingsError`` naming the file and line, the variable or the flag that is wrong.
    """
    return trace_settings(home, overrides).settings


class Source(NamedTuple):
    """Where a value comes from. ``place``: the file with the line, the variable; empty for a default or a flag."""

    kind: Literal["default", "file", "variable", "flag"]
    place: str = ""


class Traced(NamedTuple):
    """Settings, and the source of the home folder and of each setting that is not a default, by name."""

    settings: Settings
    home: Source
    sources: dict[str, Source]


def trace_settings(home: Path | None, overrides: Mapping[str, Any] | None = None) -> Traced:
    """``load_settings``, and where each value comes from. Raises ``SettingsError``."""
    folder = find_home(home)
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for name, value, source in (*_from_file(folder / "trustgate.toml"), *_from_environment()):
        values[name], sources[name] = value, source
    for name, value in (overrides or {}).items():
        if value is not None:
            flag = _Place(f"The flag for {name}", "See trustgate serve --help.")
            values[name], sources[name] = _convert(name, value, flag, strict=True), Source("flag")
    _refuse_unknown_variables(str(values.get(name)) for name in _KEY_VARIABLES)
    sections: dict[str, Any] = {section: _build(section, values) for section in SECTIONS}
    return Traced(Settings(home=folder, **sections), _source_of_home(home), sources)


def _build(section: str, values: Mapping[str, Any]) -> msgspec.Struct:
    kind = SECTIONS[section]
    given = {field: values[f"{section}.{field}"] for field in kind.__struct_fields__ if f"{section}.{field}" in values}
    return kind(**given)


def check_values(values: Mapping[str, Any]) -> None:
    """Raise ``SettingsError`` for a value that its setting cannot have."""
    for name, value in values.items():
        _convert(name, value, _Place(name, "Give another value."), strict=True)


class Described(NamedTuple):
    """One setting, for documentation."""

    name: str
    default: Any
    variable: str
    doc: str
    #: What a value may look like, for settings whose default is none.
    example: Any = None


def describe_sections() -> dict[str, str]:
    """Returns what each section is about, in order: the sentence after the colon of its docstring."""
    docs = {section: (kind.__doc__ or "").partition(": ")[2] for section, kind in SECTIONS.items()}
    return {section: " ".join(doc.split()) for section, doc in docs.items()}


def describe() -> list[Described]:
    """Every setting there is, in order."""
    return [
        Described(name, field.default, _variable_of(name), *_doc_of(_HINTS[name]))
        for section, kind in SECTIONS.items()
        for field in msgspec.structs.fields(kind)
        for name in [f"{section}.{field.name}"]
    ]


class _Place(NamedTuple):
    """Where a value came from: how to begin the sentence about it, and what to do."""

    what: str
    hint: str


def _source_of_home(home: Path | None) -> Source:
    if home is not None:
        return Source("flag", "--home")
    return Source("variable", "TRUSTGATE_HOME") if os.environ.get("TRUSTGATE_HOME", "") else Source("default")


def find_home(home: Path | None) -> Path:
    """Returns the home folder: ``home``, else ``TRUSTGATE_HOME``, else the platform's. Raises ``HomeUnusable``."""
    chosen = home or (Path(named) if (named := os.environ.get("TRUSTGATE_HOME", "")) else None)
    if chosen is None:
        chosen = _user_data_folder() / "trustgate"
    try:
        return chosen.expanduser().absolute()
    except (RuntimeError, OSError):  # there is no such user, or no current folder
        raise HomeUnusable(
            f"The home folder {chosen} cannot be found.", hint="Give a whole path with --home or TRUSTGATE_HOME."
        ) from None


def _user_data_folder() -> Path:
    if sys.platform == "darwin":
        return Path("~/Library/Application Support")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local")
    named = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification ignores what is not absolute.
    return Path(named) if named.startswith("/") else Path("~/.local/share")


def _from_file(path: Path) -> Iterator[tuple[str, Any, Source]]:
    import tomllib

    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):  # make_home reports what is wrong with such a home
        return
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", hint="Correct its permissions.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}, line {line}: this is not UTF-8.", hint="Save the file as UTF-8.") from None
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _bad_toml(path, text, error) from None
    for section, members in document.items():
        place = f"{path}, line {_line_of(text, section, None)}"
        if section not in SECTIONS:
            raise SettingsError(
                f"{place}: there is no section [{section}].", hint=_did_you_mean(section, SECTIONS, "The sections are")
            )
        if not isinstance(members, dict):
            raise SettingsError(f"{place}: {section} is a section, not a value.", hint=f"Write [{section}] on a line.")
        for field, value in members.items():
            place = f"{path}, line {_line_of(text, section, field)}"
            name = f"{section}.{field}"
            if name not in _HINTS:
                fields = SECTIONS[section].__struct_fields__
                raise SettingsError(
                    f"{place}: there is no setting {field} in [{section}].",
                    hint=_did_you_mean(field, fields, f"The settings of [{section}] are"),
                )
            converted = _convert(name, value, _Place(f"{place}: {name}", "Correct that line."), strict=True)
            yield name, converted, Source("file", place)


def _bad_toml(path: Path, text: str, error: Exception) -> SettingsError:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL)
    if found is None:
        return SettingsError(f"{path} is not a valid TOML file: {error}.")
    line = found[2] or str(len(text.splitlines()))
    column = f", column {found[3]}" if found[3] else ""
    return SettingsError(f"{path}, line {line}{column}: {found[1]}.", hint="Correct that line; the file is TOML.")


def _line_of(text: str, section: str, field: str | None) -> int:
    """Returns the line of a section's header, or of a member of it. Works on text that is valid TOML."""
    quoted = {name: rf"[\"']?{re.escape(name)}[\"']?" for name in (section, field or "")}
    header = re.compile(rf"\s*\[\s*{quoted[section]}\s*[\].]")
    dotted = re.compile(
        rf"\s*{quoted[section]}\s*(\.|=)"
        if field is None
        else rf"\s*{quoted[section]}\s*(\.\s*|=.*[{{,]\s*){quoted[field]}\s*[.=]"
    )
    member = None if field is None else re.compile(rf"\s*{quoted[field]}\s*[.=]")
    inside = at_top = False
    at_top = True
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(r"\s*\[", line):
            inside, at_top = header.match(line) is not None, False
            if inside and field is None:
                return number
        elif (inside and member is not None and member.match(line)) or (at_top and dotted.match(line)):
            return number
    return 1


def _from_environment() -> Iterator[tuple[str, Any, Source]]:
    for name in _HINTS:
        variable = _variable_of(name)
        text = os.environ.get(variable, "")
        if text and variable not in _RESERVED:
            place = _Place(variable, f"Correct or unset {variable}.")
            yield name, _convert(name, _from_text(name, text), place, strict=False), Source("variable", variable)


def _from_text(name: str, text: str) -> Any:
    """Returns a variable's text as what its type is converted from: lists are separated by commas."""
    if get_origin(_bare(_HINTS[name])) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _convert(name: str, value: Any, place: _Place, *, strict: bool) -> Any:
    try:
        hint = _HINTS[name]
    except KeyError:
        raise SettingsError(
            f"There is no setting {name}.", hint=_did_you_mean(name, _HINTS, "The settings are")
        ) from None
    try:
        converted = msgspec.convert(value, hint, strict=strict)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{place.what}: {_plain(str(error))}.", hint=place.hint) from None
    fault = check_value(name, converted)
    if fault is not None:
        raise SettingsError(f"{place.what} {fault}.", hint=place.hint)
    return converted


def _plain(message: str) -> str:
    """msgspec's sentence without its marks: "expected int <= 65535"."""
    message = re.sub(r" - at `\$[^`]*`", "", message).replace("`", "")
    return message[:1].lower() + message[1:]


def _refuse_unknown_variables(key_variables: Iterator[str]) -> None:
    """Raise ``SettingsError`` for a variable that looks like a setting and is none. A named key is not one."""
    known = {_variable_of(name) for name in _HINTS} | _RESERVED
    allowed = known | set(key_variables)
    sections = tuple(f"TRUSTGATE_{section.upper()}_" for section in SECTIONS)
    for variable in os.environ:
        if not variable.startswith("TRUSTGATE_") or variable in allowed:
            continue
        if variable.startswith(sections) or most_like(variable, known, least=0.9) is not None:
            raise SettingsError(
                f"The environment variable {variable} is not a setting of TrustGate.",
                hint=_did_you_mean(variable, known, "Unset it. The variables are"),
            )


def _did_you_mean(name: str, known: Collection[str], listing: str) -> str:
    alike = most_like(name, known)
    return f"{listing}: {', '.join(sorted(known))}." if alike is None else f"Did you mean {alike}?"


def _variable_of(name: str) -> str:
    return f"TRUSTGATE_{name.replace('.', '_').upper()}"


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _doc_of(hint: Any) -> tuple[str, Any]:
    """Returns a setting's description, and an example of its value if it has one."""
    for meta in get_args(hint)[1:]:
        if isinstance(meta, Meta) and meta.description is not None:
            return meta.description, (meta.examples or [None])[0]
    raise AssertionError(f"a setting without a description: {hint}")


#: Every setting by its name, with its annotated type.
_HINTS: dict[str, Any] = {
    f"{section}.{field}": hint
    for section, kind in SECTIONS.items()
    for field, hint in get_type_hints(kind, include_extras=True).items()
}
