"""``trustgate connect``: the configuration of a client program for this gateway, shown, written and tried."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from trustgate.admin.commands import KeyCreate, Status
from trustgate.cli import render
from trustgate.cli.connecting.clients import CLIENTS, ECHO, OWN_VARIABLE, ClientName, ClientTarget, Connectable
from trustgate.cli.context import JsonOption, execute, public_address, session
from trustgate.errors import InvalidRequest, SettingsError
from trustgate.settings import read_secret_variable, why_not_base_url, why_not_variable_name


def register(app: typer.Typer) -> None:
    app.command("connect", short_help="Configure a client program for this gateway: codex, claude-code, opencode …")(
        connect
    )


def connect(
    context: typer.Context,
    client: Annotated[
        ClientName | None, typer.Argument(metavar="CLIENT", help=f"Which program: {', '.join(CLIENTS)}.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the programs that can be connected.")] = False,
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="The model it uses.")] = ECHO,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", metavar="URL", help="The gateway's address as the client sees it.  [default: this one's]"
        ),
    ] = None,
    key_variable: Annotated[
        str | None,
        typer.Option(
            "--key-variable",
            metavar="NAME",
            help="The environment variable that holds the key: configurations name it, and never hold the key itself.  "
            f"[default: {OWN_VARIABLE}, or the one that the program reads]",
        ),
    ] = None,
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Read the key for --check from stdin instead of the variable.")
    ] = False,
    new_key: Annotated[
        str | None, typer.Option("--new-key", metavar="TENANT", help="Make a key of this tenant, shown only once.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Another file than the program's own.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Put it into the program's file; what was there before is kept beside it.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Put back what the file was before the last --write.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Send a first request with it: by the program itself in a folder of its own, or, where it is not "
            "installed, by the same request.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Configure a client program for this gateway.

    Prints the configuration: the file, what belongs into it, and the variables to set.
    """
    if list_:
        _list(json)
        return
    if client is None:
        raise InvalidRequest("No client was named.", hint="trustgate connect --list")
    connectable = CLIENTS[client]
    path = _path(connectable, file, needed=write or undo)
    document: dict[str, Any] = {"client": client, "title": connectable.title}
    if undo:
        if write or check or new_key or key_stdin:
            raise InvalidRequest("--undo stands alone.", hint=f"trustgate connect {client} --undo")
        _undo(document, cast(Path, path), json)
        return
    if key_stdin and (new_key or not check):
        raise InvalidRequest("--key-stdin gives --check its key: it goes with it, and not with --new-key.")
    if not model.strip() or not model.isprintable():
        raise InvalidRequest("--model is not the name of a model.", hint="trustgate passport list")
    target = ClientTarget(_origin(context, url), model, _variable(connectable, key_variable))
    document |= _described(connectable, target, path)
    if write:
        document["written"] = _written(connectable, target, cast(Path, path))
    key = ""
    if new_key is not None:
        # After what may be refused: a key is shown only once.
        made = execute(context, KeyCreate(tenant=new_key, name=client))
        key = made.secret
        document["key"] = {"id": made.key.id, "secret": made.secret}
    if check:
        key = key or (_key_from_stdin() if key_stdin else _key_from_variable(target.variable))
        _check(connectable, target, key, document, json)
    else:
        _print(document, json)


def _undo(document: dict[str, Any], path: Path, json: bool) -> None:
    from trustgate.cli.connecting.merging import undo_file

    document["undone"] = undo_file(path)
    _print(document, json)


def _written(client: Connectable, target: ClientTarget, path: Path) -> Any:
    """Returns what became of the program's file, which has the configuration now."""
    from trustgate.cli.connecting.merging import merge_file

    assert client.document is not None
    return merge_file(path, client.format, client.document(target), client.own_keys)


def _check(client: Connectable, target: ClientTarget, key: str, document: dict[str, Any], json: bool) -> None:
    """Send a first request, and print ``document`` and what came of it."""
    from trustgate.cli.connecting.trying import try_client

    if not json:
        # A new key is shown before the check, which may fail: it cannot be shown again.
        _print(document, json)
    try:
        with render.waiting(f"{client.title} is tried …", quiet=json):
            document["check"] = try_client(client, target, key)
    except BaseException:
        if json and "key" in document:
            _print({**document, "check": None}, json)
        raise
    if json:
        _print(document, json)
    else:
        _print_check(document["check"])


def _path(client: Connectable, given: Path | None, *, needed: bool) -> Path | None:
    if client.path is not None:
        return given or client.path()
    if given is not None or needed:
        raise InvalidRequest(
            f"{client.title} is connected by environment variables, not by a file.",
            hint="Leave --write, --undo and --file out, and set the variables that are printed.",
        )
    return None


def _origin(context: typer.Context, url: str | None) -> str:
    if url is None:
        settings = session(context).settings()
        from trustgate.settings import remote_server

        known = remote_server() is not None or settings.may_have_database
        return public_address(settings, execute(context, Status()).address if known else "")
    fault = why_not_base_url(url)
    if fault is not None or not url.startswith(("http://", "https://")):
        raise InvalidRequest(
            f"--url {fault or 'must begin with http:// or https://'}.", hint="For example: https://gateway.example.com"
        )
    return url.rstrip("/").removesuffix("/v1")


def _variable(client: Connectable, given: str | None) -> str:
    if given is None:
        return client.key_variable or OWN_VARIABLE
    fault = why_not_variable_name(given)
    if fault is not None:
        raise InvalidRequest(f"--key-variable {fault}.", hint=f"For example: --key-variable {OWN_VARIABLE}")
    return given


def _key_from_variable(name: str) -> str:
    try:
        return read_secret_variable(name)
    except SettingsError as error:
        raise InvalidRequest(
            error.message, hint=f"Set it to a tenant's key: export {name}=…, or have one made: --new-key TENANT"
        ) from None


def _key_from_stdin() -> str:
    key = sys.stdin.readline().strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidRequest("There is no key on stdin.", hint="trustgate connect CLIENT --check --key-stdin < FILE")
    return key


def _described(client: Connectable, target: ClientTarget, path: Path | None) -> dict[str, Any]:
    content = None
    if client.document is not None:
        from trustgate.cli.connecting.merging import document_text

        content = document_text(client.format, client.document(target))
    return {
        "address": target.origin,
        "model": target.model,
        "key_variable": target.variable,
        "file": None if path is None else str(path),
        "format": None if path is None else client.format,
        "content": content,
        "variables": client.variables(target),
        "exports": _exports(client, target),
        "example": None if client.example is None else client.example(target),
        "note": client.note or None,
    }


def _exports(client: Connectable, target: ClientTarget) -> list[str]:
    """Returns the lines for a shell's profile. The program's own variable takes the key from another one."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in client.variables(target).items()]
    if client.key_variable and client.key_variable != target.variable:
        lines.append(f'export {client.key_variable}="${target.variable}"')
    return lines


def _list(json: bool) -> None:
    if json:
        listed = [
            {
                "client": name,
                "title": client.title,
                "file": None if client.path is None else str(client.path()),
                "format": None if client.path is None else client.format,
                "program": client.program or None,
            }
            for name, client in CLIENTS.items()
        ]
        render.document({"clients": listed})
        return
    rows = [
        (name, client.title, "variables" if client.path is None else str(client.path()))
        for name, client in CLIENTS.items()
    ]
    render.table(["Client", "What it is", "Configured in"], rows, empty="")


def _print(document: dict[str, Any], json: bool) -> None:
    if json:
        render.document(document)
        return
    if "undone" in document:
        for line in document["undone"].changes:
            render.say(f"{document['undone'].path}: {line}")
        return
    written = document.get("written")
    if written is not None:
        _print_written(written)
    elif document["file"] is not None:
        render.say(render.Styled(f"{document['file']} (--write puts it there)", "bold"))
        render.say(document["content"].rstrip("\n"))
        render.say("")
    made = document.get("key")
    lines = list(document["exports"])
    if made is not None:
        lines.insert(0, f"export {document['key_variable']}={made['secret']}")
        render.say(render.Styled("In your shell: the key, shown only this once", "bold"))
    else:
        lines.insert(0, f"export {document['key_variable']}=…")
        render.say(render.Styled("In your shell, with a tenant's key (--new-key TENANT makes one)", "bold"))
    for line in lines:
        render.say(line)
    if document["example"] is not None:
        render.say("")
        render.say(document["example"])
    if document["note"] is not None:
        render.say("")
        render.say(document["note"])


def _print_written(written: Any) -> None:
    if not written.changed:
        render.say(f"{written.path} has it already.")
        return
    render.say(render.Styled(written.path, "bold"))
    for line in written.changes:
        render.say(f"  {line}")
    if written.is_new:
        render.say("There was no such file before; --undo removes it.")
    else:
        render.say(f"What was there before is in {written.backup}; --undo puts it back.")
    render.say("")


def _print_check(found: Any) -> None:
    render.say("")
    if found.is_program:
        render.say(f"{found.by} answered:")
    else:
        render.say(f"The program was not run here; the same first request, {found.by}, was answered:")
    render.say(found.answer)
