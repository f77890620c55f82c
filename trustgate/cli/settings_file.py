"""Writing ``trustgate.toml``: every setting as a comment with its default, chosen values as lines.

Owns that text and how values are written in TOML. Made from the settings' own descriptions, so it cannot drift.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trustgate.errors import Conflict, HomeUnusable, disk_hint
from trustgate.formats.durable import create_durably, write_durably
from trustgate.settings import describe, describe_sections

_WIDTH = 100
_HEAD = """\
# The settings of TrustGate. A line like "#port = 4010" shows a default: take its # away to change it.
# TRUSTGATE_SECTION_NAME variables override this file, flags override both: `trustgate config show` lists the result.
# Secrets do not belong here: settings name the environment variable that holds one.
"""


def settings_file_text(chosen: Mapping[str, Any]) -> str:
    """``chosen``: names like ``serve.port`` to values."""
    settings = describe()
    lines = [_HEAD.rstrip()]
    for section, doc in describe_sections().items():
        lines += ["", f"[{section}]", *_comment(doc[:1].upper() + doc[1:])]
        for setting in settings:
            if setting.name.partition(".")[0] != section:
                continue
            name = setting.name.partition(".")[2]
            lines += ["", *_comment(setting.doc)]
            if setting.name in chosen:
                lines.append(f"{name} = {toml(chosen[setting.name])}")
            elif setting.default is None:
                lines.append(f"#{name} = {toml(setting.example)}  # an example; there is none by default")
            else:
                lines.append(f"#{name} = {toml(setting.default)}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def toml(value: Any) -> str:
    """Returns a setting's value in TOML."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml, value))}]"
    # A JSON string is a TOML basic string, but for the one control character that JSON lets stand.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_settings_file(path: Path, text: str, *, replace: bool) -> Path | None:
    """Write the file, for its owner alone. ``replace``: over an existing one, which is kept; gives where it is then.

    Raises ``Conflict`` when there is one and it is not to be replaced, ``HomeUnusable`` when it cannot be written.
    """
    # Whole, or not there: a server must not start with the half of it that a full disk took.
    kept = path.with_name(f"{path.name}.old") if replace and path.exists() else None
    try:
        if kept is None:
            create_durably(path, text.encode())
        else:
            write_durably(kept, path.read_bytes())
            write_durably(path, text.encode())
    except FileExistsError:
        raise settings_file_exists(path) from None
    except OSError as error:
        hint = disk_hint(error, "Correct the permissions of its folder.")
        raise HomeUnusable(f"{path} cannot be written: {error.strerror}.", hint=hint) from None
    return kept


def settings_file_exists(path: Path) -> Conflict:
    return Conflict(
        f"The settings file already exists: {path}",
        hint="See it with trustgate config show, or replace it (the old one is kept beside it): trustgate init --force",
        code="settings_exist",
    )
