"""The completion script for bash, from version 3.2 (macOS) on; it needs no other package."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from trustgate.cli.completion.tree import Node, Value

_HEAD = """\
# Completes trustgate in bash. Made by `trustgate completion bash` from the program itself: do not edit.

"""

_BODY = r"""
# What the words before the cursor mean: sets path, count (of arguments), flag (that waits for its value) and home.
__trustgate_walk() {
    local word
    path=trustgate count=0 flag= home=
    for word in "$@"; do
        if [[ -n $flag ]]; then
            [[ $flag = --home ]] && home=$word
            flag=
        elif [[ $word = --home=* ]]; then
            home=${word#*=}
        elif [[ $word = -*=* ]]; then
            :
        elif [[ $word = -* ]]; then
            __trustgate_value "$path" "$word"
            [[ -n $kind ]] && flag=$word
        else
            __trustgate_commands "$path"
            case " $names " in
                *" $word "*) path="$path $word" count=0 ;;
                *) count=$((count + 1)) ;;
            esac
        fi
    done
}

# Adds to COMPREPLY what begins with $1 among the lines of the standard input; a tab ends the word.
__trustgate_matching() {
    local line
    while IFS= read -r line; do
        line=${line%%$'\t'*}
        if [[ $line = "$1"* ]]; then
            COMPREPLY+=("$(printf '%q' "$line")")
        fi
    done
}

_trustgate() {
    # bash breaks words at : and = as well; what stands together is put together again.
    local words=() word broken= i
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ ${#words[@]} -gt 0 && ($word = [:=] || -n $broken) ]]; then
            words[${#words[@]}-1]+=$word
        else
            words+=("$word")
        fi
        broken=
        [[ $word = [:=] && $COMP_WORDBREAKS = *$word* && $i -lt $COMP_CWORD ]] && broken=$word
    done
    local current=${words[${#words[@]}-1]} path count flag home kind names options
    unset "words[${#words[@]}-1]"
    __trustgate_walk "${words[@]}"
    local head= typed=$current
    if [[ -z $flag && $current = --*=* ]]; then
        flag=${current%%=*} head=$flag= typed=${current#*=}
    fi
    typed=${typed//\\/} typed=${typed#[\"\']}
    COMPREPLY=()
    if [[ -n $flag ]]; then
        __trustgate_value "$path" "$flag"
    elif [[ $current = -* ]]; then
        __trustgate_options "$path"
        __trustgate_matching "$typed" <<< "$options"
        return
    else
        __trustgate_commands "$path"
        if [[ -n $names ]]; then
            __trustgate_matching "$typed" <<< "${names// /$'\n'}"
            return
        fi
        __trustgate_argument "$path" "$count"
    fi
    case $kind in
        '' | any) ;;
        file) compopt -o filenames 2> /dev/null; COMPREPLY=($(compgen -f -- "$typed")) ;;
        folder) compopt -o filenames 2> /dev/null; COMPREPLY=($(compgen -d -- "$typed")) ;;
        words:*) kind=${kind#words:}; __trustgate_matching "$typed" <<< "${kind// /$'\n'}" ;;
        *)
            home=${home/#\~/$HOME}
            __trustgate_matching "$typed" \
                < <("${COMP_WORDS[0]/#\~/$HOME}" ${home:+--home "$home"} completion values "$kind" 2> /dev/null)
            ;;
    esac
    # What bash took for a word of its own ends at the last : or =, so an answer begins there.
    local whole=$head$typed cut
    if [[ $whole = *[:=]* && $COMP_WORDBREAKS = *:* ]]; then
        cut=${typed%"${typed##*[:=]}"}
        for ((i = 0; i < ${#COMPREPLY[@]}; i++)); do
            COMPREPLY[i]=${COMPREPLY[i]#"$cut"}
        done
    fi
}

complete -F _trustgate trustgate
"""


def script(tree: Sequence[Node]) -> str:
    names = [(node.path, " ".join(name for name, _ in node.commands)) for node in tree if node.commands]
    options = [(node.path, "\n".join(name for option in node.options for name in option.names)) for node in tree]
    values = [
        (f"{node.path} {name}", _kind(option.value))
        for node in tree
        for option in node.options
        if option.value is not None
        for name in option.names
    ]
    arguments = [
        (f"{node.path} {number}", _kind(value)) for node in tree for number, value in enumerate(node.arguments)
    ]
    return (
        _HEAD
        + _table("commands", "names", '"$1"', names)
        + _table("options", "options", '"$1"', options)
        + _table("value", "kind", '"$1 $2"', values)
        + _table("argument", "kind", '"$1 $2"', arguments)
        + _BODY
    )


def _kind(value: Value) -> str:
    return f"words:{' '.join(value.words)}" if value.kind == "words" else value.kind


def _table(function: str, variable: str, key: str, entries: Iterable[tuple[str, str]]) -> str:
    """Returns a shell function that sets a variable to the table's entry for its arguments, or to nothing."""
    keys: dict[str, list[str]] = {}
    for path, value in entries:
        keys.setdefault(value, []).append(shlex.quote(path))
    lines = [f"__trustgate_{function}() {{", f"    case {key} in"]
    lines += [f"        {' | '.join(paths)}) {variable}={shlex.quote(value)} ;;" for value, paths in keys.items()]
    lines += [f"        *) {variable}= ;;", "    esac", "}", ""]
    return "\n".join(lines)
