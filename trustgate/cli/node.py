"""``trustgate node``: the processes that serve one Postgres database."""

from __future__ import annotations

import typer

from trustgate.admin.clustering import NodeList
from trustgate.cli import render
from trustgate.cli.context import JsonOption, execute
from trustgate.cluster.nodes import ClusterNode

app = typer.Typer(help="Nodes: the processes that serve one Postgres database.", no_args_is_help=True)


@app.command("list", short_help="List the processes that serve the database.")
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """List the processes that serve the Postgres database, and what is wrong with them.

    The lease is how long a process may serve without reaching the database. Exits with 1 where something is wrong.
    """
    found = execute(context, NodeList())
    if json:
        render.document({"nodes": found.nodes, "findings": found.findings})
    elif found.nodes is None:
        render.say("The database is a file, which one process serves. Nodes are those of a Postgres database.")
    else:
        columns: list[str | render.Column] = [
            "Address",
            "Host",
            render.right("Process"),
            "Version",
            "Since",
            render.right("Lease"),
            "Roles",
        ]
        render.table(columns, map(_row, found.nodes), empty="No process serves the database.", optional=("Version",))
        for finding in found.findings:
            render.finding("warn", "nodes", finding, None)
    if found.findings:
        raise typer.Exit(1)


def _row(node: ClusterNode) -> list[render.Cell]:
    lease = f"{node.lease_left_s:.0f} s"
    return [
        node.address,
        node.host,
        str(node.pid),
        node.version,
        render.instant_utc(node.started_us),
        lease if node.lease_left_s > 0 else render.Styled("over", "red"),
        ", ".join(node.roles),
    ]
