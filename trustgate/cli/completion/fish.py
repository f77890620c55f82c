"""The completion script for fish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trustgate.cli.completion.tree import Node, Value

_HEAD = """\
# Completes trustgate in fish. Made by `trustgate completion fish` from the program itself: do not edit.

# What the words before the cursor mean: the path of the command, and how many arguments it has. Worked out once a line.
function __trustgate_walk
    set -l tokens (commandline -opc)
    test "$tokens" = "$__trustgate_tokens"; and return
    set -g __trustgate_tokens $tokens
    set -g __trustgate_path trustgate
    set -g __trustgate_count 0
    set -g __trustgate_home
    set -l flag
    for word in $tokens[2..-1]
        if test -n "$flag"
            test $flag = --home; and set -g __trustgate_home --home $word
            set flag
        else if string match -q -- '--home=*' $word
            set -g __trustgate_home $word
        else if string match -q -- '-*=*' $word
            continue
        else if string match -q -- '-*' $word
            contains -- "$__trustgate_path $word" $__trustgate_valued; and set flag $word
        else if contains -- "$__trustgate_path $word" $__trustgate_commands
            set -g __trustgate_path "$__trustgate_path $word"
        else
            set -g __trustgate_count (math $__trustgate_count + 1)
        end
    end
end

# Whether the cursor stands in this command, and, where a number is given, at that argument of it (from 0 on).
function __trustgate_in
    __trustgate_walk
    test "$__trustgate_path" = $argv[1]; or return 1
    test (count $argv) = 1; or test $__trustgate_count = $argv[2]
end

# The values of one kind, which the program is asked for.
function __trustgate_values
    __trustgate_walk
    set -l program (commandline -opc)[1]
    eval $program $__trustgate_home completion values $argv[1] 2>/dev/null
end

"""


def script(tree: Sequence[Node]) -> str:
    valued = [
        f"{node.path} {name}"
        for node in tree
        for option in node.options
        if option.value is not None
        for name in option.names
    ]
    commands = [node.path for node in tree[1:]]
    lines = [
        f"set -g __trustgate_commands {' '.join(map(_quote, commands))}",
        f"set -g __trustgate_valued {' '.join(map(_quote, valued))}",
        "",
        "complete -c trustgate -f",
        *(line for node in tree for line in _completions(node)),
    ]
    return _HEAD + "\n".join(lines) + "\n"


def _completions(node: Node) -> Iterator[str]:
    here = f"complete -c trustgate -n {_quote(f'__trustgate_in {_quote(node.path)}')}"
    for name, what in node.commands:
        yield f"{here} -a {_quote(name)} -d {_quote(what)}"
    for option in node.options:
        names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
        takes = "" if option.value is None else f" {_value(option.value)}"
        yield f"{here} {' '.join(names)}{takes} -d {_quote(option.help)}"
    for number, value in enumerate(node.arguments):
        if value.kind != "any":
            at = f"complete -c trustgate -n {_quote(f'__trustgate_in {_quote(node.path)} {number}')}"
            yield f"{at} {_argument(value)}"


def _value(value: Value) -> str:
    """Returns the value of an option: ``-r`` files may stand there, ``-x`` none may."""
    if value.kind == "any":
        return "-x"
    return "-r -F" if value.kind == "file" else f"-x {_words(value)}"


def _argument(value: Value) -> str:
    return "-F" if value.kind == "file" else _words(value)


def _words(value: Value) -> str:
    if value.kind == "words":
        return f"-a {_quote(' '.join(value.words))}"
    if value.kind == "folder":
        return "-a '(__fish_complete_directories (commandline -ct))'"
    return f"-a '(__trustgate_values {value.kind})'"


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
