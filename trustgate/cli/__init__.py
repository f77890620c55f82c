"""The command line: one file per noun, one renderer (``render``), one way to reach the ``Admin``
(``context``).

Owns the entry point and the one place where an exception becomes a sentence on stderr and an exit code. Nothing slow
is imported before a command needs it, so that ``trustgate --help`` is quick.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.exceptions import Abort, TyperException

from trustgate import __version__
from trustgate.cli.commands import Commands
from trustgate.cli.fast_options import read_plainly
from trustgate.errors import InvalidRequest, TrustGateError
from trustgate.formats.likeness import most_like
from trustgate.signals import hold_hangup
from trustgate.stderr import keep_standard_files

_INTERRUPTED = 130
_PIPE_BROKEN = 141
#: Why standard output takes nothing: its disk is full, its terminal is gone, it is closed.
_OUTPUT_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF))

read_plainly()
app = typer.Typer(
    name="trustgate",
    cls=Commands,
    help="An OpenAI-compatible LLM gateway: tenants, keys, plans, quotas, metering, payments and receipts.",
    epilog="First steps: `trustgate demo`, `trustgate init`, `trustgate serve`, `trustgate tenant add NAME`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,  # `trustgate completion` has scripts of its own, which ask the program for values alone
    rich_markup_mode=None,  # plain help: it needs no rich, and reads well in any terminal
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trustgate {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    context: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            "--home", metavar="DIR", help="The folder with the database and trustgate.toml.  [env: TRUSTGATE_HOME]"
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    from trustgate.cli.context import Session

    context.obj = Session(home)


def main() -> NoReturn:
    """The console script ``trustgate``."""
    keep_standard_files()
    hold_hangup()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        # What a command that failed had begun to print. At its end the interpreter would exit with a code of its own.
        _drop_output()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line; gives the exit code. Every failure ends here."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character of some name must not stop a command.
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        _check_encoding(arguments)
        # Without a command's own exit code, typer gives back what the command returned: None.
        code = app(arguments, prog_name="trustgate", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except TrustGateError as error:
        return _fail(error.message, error.hint, error.exit_code)
    except TyperException as error:
        return _fail_usage(error)
    except (KeyboardInterrupt, Abort):
        return _INTERRUPTED
    except SystemExit as ending:
        # Typer turns a broken pipe that a command itself meets into this.
        if not isinstance(ending.__context__, BrokenPipeError):
            raise
        _drop_output()
        return _PIPE_BROKEN
    except BrokenPipeError:
        # The reader of the output has gone, `head` for example; no reader is left.
        _drop_output()
        return _PIPE_BROKEN
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OUTPUT_FULL and error.filename is None:
            _drop_output()
            hint = "Free some space where it goes, or print it elsewhere."
            return _fail(f"The output cannot be written: {error.strerror}.", hint, 1)
        from trustgate.settings import debug_wanted

        if debug_wanted():
            raise
        return _fail(
            f"internal error: {type(error).__name__}: {error}",
            "This is a bug in TrustGate. TRUSTGATE_DEBUG=1 shows where it happened; please report it.",
            1,
        )


def _printable(text: str) -> str:
    """Names of others are in messages: no control code of theirs gets to the terminal."""
    from trustgate.cli.render import printable

    return printable(text)


def _drop_output() -> None:
    """What is still buffered goes nowhere, so that the interpreter does not stumble over it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _check_encoding(arguments: Sequence[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(
                f"The argument {argument.encode(errors='replace').decode()!r} is not UTF-8.",
                hint="Use a UTF-8 terminal, or plain ASCII.",
            ) from None


def _fail_usage(error: TyperException) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message().replace("Value error, ", "")
    if context is None:
        return _fail(message, "trustgate --help", error.exit_code)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message, err=True)
        return error.exit_code
    option = getattr(error, "option_name", None)
    if option == "--json" and hasattr(context.command, "commands"):
        return _fail("--json stands after the command.", f"{context.command_path} … --json", error.exit_code)
    if option == "--home":
        command = context.command_path.removeprefix("trustgate").strip()
        return _fail(
            "--home stands before the command, as it is for all of them.",
            f"trustgate --home DIR {command}".rstrip(),
            error.exit_code,
        )
    return _fail(_with_likeness(message), f"{context.command_path} --help", error.exit_code)


def _with_likeness(message: str) -> str:
    """Returns a refusal of a word that is none of some choices with the one that was probably meant."""
    refused = re.fullmatch(r"(Invalid value for .*: '(.*)' is not one of) ('.*')\.", message)
    if refused is None:
        return message
    alike = most_like(refused[2], re.findall(r"'([^']*)'", refused[3]))
    return message if alike is None else f"{message} Did you mean {alike!r}?"


def _fail(message: str, hint: str | None, code: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        typer.echo(_printable(f"Error: {message}"), err=True)
        if hint:
            # A hint is a command to type, or a sentence.
            typer.echo(_printable(f"  {'Try: ' if hint.startswith('trustgate ') else ''}{hint}"), err=True)
    return code
