"""The completion script for zsh: one function a command, with descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from trustgate.cli.completion.tree import Node, Option, Value

_HEAD = """\
#compdef trustgate
# Completes trustgate in zsh. Made by `trustgate completion zsh` from the program itself: do not edit.

# The values of one kind, which the program is asked for.
_trustgate_values() {
    local line
    local -a found
    for line in ${(f)"$(_call_program values $_trustgate_program ${_trustgate_home:+--home ${(q)_trustgate_home}} \\
            completion values $1)"}; do
        found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    _describe -t $1 $1 found
}

"""

_TAIL = """
if [[ $funcstack[1] = _trustgate ]]; then
    _trustgate "$@"
else
    compdef _trustgate trustgate
fi
"""


def script(tree: Sequence[Node]) -> str:
    functions = "\n".join(line for node in tree for line in _function(node))
    return _HEAD + functions + _TAIL


def _function(node: Node) -> Iterator[str]:
    yield f"{_name(node.path)}() {{"
    specs = [spec for option in node.options for spec in _option(option)]
    if node.commands:
        yield "    local curcontext=$curcontext state line"
        yield "    local -A opt_args"
        if node.path == "trustgate":
            yield "    local _trustgate_home _trustgate_program=$words[1]"
        specs += ["'1: :->command'", "'*:: :->rest'"]
        yield from _arguments("-C ", specs)
        yield "    case $state in"
        yield "        command)"
        yield "            local -a commands=("
        yield from (f"                {_quote(f'{name}:{what}')}" for name, what in node.commands)
        yield "            )"
        yield "            _describe -t commands command commands"
        yield "            ;;"
        yield "        rest)"
        if node.path == "trustgate":
            # As it was typed: with a tilde, or quoted.
            yield "            _trustgate_home=${(e)~${(Q)opt_args[--home]}}"
        yield "            case $words[1] in"
        yield from (f"                {name}) {_name(f'{node.path} {name}')} ;;" for name, _ in node.commands)
        yield "            esac"
        yield "            ;;"
        yield "    esac"
    else:
        specs += [f"'{number}:{_action(value)}'" for number, value in enumerate(node.arguments, start=1)]
        yield from _arguments("", specs)
    yield "}"
    yield ""


def _arguments(flags: str, specs: list[str]) -> Iterator[str]:
    yield f"    _arguments {flags}-s -S \\"
    yield from (f"        {spec} \\" for spec in specs[:-1])
    yield f"        {specs[-1]}"


def _name(path: str) -> str:
    return "_" + path.replace(" ", "_").replace("-", "_")


def _option(option: Option) -> Iterator[str]:
    """Yields a spec each name: those of one option exclude each other, unless it may be repeated."""
    help_text = re.sub(r"([\[\]:\\])", r"\\\1", option.help)
    for name in option.names:
        start = "*" if option.repeated else f"({' '.join(option.names)})"
        value = "" if option.value is None else f":{_action(option.value)}"
        equals = "=" if option.value is not None and name.startswith("--") else ""
        yield _quote(f"{start}{name}{equals}[{help_text}]{value}")


def _action(value: Value) -> str:
    """Returns what a value is called, and how it is found."""
    if value.kind == "words":
        return f"value:({' '.join(value.words)})"
    # Said with an empty list: a message in its place would keep options from being completed at once.
    known = {"any": "value:()", "file": "file:_files", "folder": "folder:_files -/"}
    # The blank before a function keeps zsh from adding flags of its own to the arguments.
    return known.get(value.kind, f"{value.kind}: _trustgate_values {value.kind}")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
