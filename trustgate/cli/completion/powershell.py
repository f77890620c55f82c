"""The completion script for PowerShell, Windows PowerShell 5.1 included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trustgate.cli.completion.tree import Node, Value

_HEAD = """\
# Completes trustgate in PowerShell. Made by `trustgate completion powershell` from the program itself: do not edit.

Register-ArgumentCompleter -Native -CommandName trustgate -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

"""

_BODY = """
    # What the words before the cursor mean: the path of the command, its arguments, a flag that waits for its value.
    $path = 'trustgate'
    $count = 0
    $flag = ''
    $homeFolder = @()
    $elements = @($commandAst.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursorPosition })
    foreach ($element in ($elements | Select-Object -Skip 1)) {
        $word = $element.ToString().Trim("'", '"')
        if ($flag) {
            if ($flag -eq '--home') { $homeFolder = @('--home', $word) }
            $flag = ''
        } elseif ($word -like '--home=*') {
            $homeFolder = @($word)
        } elseif ($word -like '-*=*') {
            continue
        } elseif ($word -like '-*') {
            $known = @($options[$path] | Where-Object { $_.Split('|')[0] -ceq $word })
            if ($known.Count -gt 0 -and $known[0].Split('|')[1]) { $flag = $word }
        } elseif (@($commands[$path] | Where-Object { $_ -and $_.Split('|')[0] -ceq $word }).Count -gt 0) {
            $path = "$path $word"
        } else {
            $count += 1
        }
    }

    # The candidates: texts of the form word|help.
    $kind = ''
    $candidates = @()
    if ($flag) {
        $kind = @($options[$path] | Where-Object { $_.Split('|')[0] -ceq $flag })[0].Split('|')[1]
    } elseif ($wordToComplete -like '-*') {
        $candidates = @($options[$path] | ForEach-Object { $name, $value, $help = $_ -split '\\|', 3; "$name|$help" })
    } elseif ($commands.ContainsKey($path)) {
        $candidates = @($commands[$path])
    } elseif ($arguments.ContainsKey("$path $count")) {
        $kind = $arguments["$path $count"]
    }
    if ($kind -like 'words:*') {
        $candidates = @($kind.Substring(6) -split ' ' | ForEach-Object { "$_|" })
    } elseif ($kind -in $dynamic) {
        $program = $commandAst.CommandElements[0].ToString()
        $found = & $program @homeFolder completion values $kind 2>$null
        $candidates = @($found | ForEach-Object { $_ -replace "`t", '|' })
    }

    # Nothing: PowerShell completes the names of files.
    $typed = $wordToComplete.Trim("'", '"')
    foreach ($candidate in $candidates) {
        $word, $help = $candidate -split '\\|', 2
        if (-not $word.StartsWith($typed)) { continue }
        $text = if ($word -match '[^\\w./:@+=-]') { "'" + $word.Replace("'", "''") + "'" } else { $word }
        if (-not $help) { $help = $word }
        [System.Management.Automation.CompletionResult]::new($text, $word, 'ParameterValue', $help)
    }
}
"""

_DYNAMIC = "    $dynamic = 'tenant', 'plan', 'passport', 'key', 'receipt'\n"


def script(tree: Sequence[Node]) -> str:
    commands = [(node.path, [f"{name}|{what}" for name, what in node.commands]) for node in tree if node.commands]
    options = [
        (node.path, [f"{name}|{_kind(option.value)}|{option.help}" for option in node.options for name in option.names])
        for node in tree
    ]
    arguments = [
        f"        {_quote(f'{node.path} {number}')} = {_quote(_kind(value))}"
        for node in tree
        for number, value in enumerate(node.arguments)
    ]
    return "".join(
        (
            _HEAD,
            _table("commands", commands),
            _table("options", options),
            "    $arguments = @{\n" + "\n".join(arguments) + "\n    }\n",
            _DYNAMIC,
            _BODY,
        )
    )


def _kind(value: Value | None) -> str:
    """Empty for a switch."""
    if value is None:
        return ""
    return f"words:{' '.join(value.words)}" if value.kind == "words" else value.kind


def _table(name: str, rows: Iterable[tuple[str, list[str]]]) -> str:
    lines = [f"    ${name} = @{{"]
    for path, entries in rows:
        lines.append(f"        {_quote(path)} = @(")
        lines += [f"            {_quote(entry)}{',' if entry is not entries[-1] else ''}" for entry in entries]
        lines.append("        )")
    return "\n".join([*lines, "    }", ""])


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
