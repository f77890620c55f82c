"""The verb on nodes, as data, and its handler: the processes that serve one Postgres database."""

from __future__ import annotations

import msgspec

from trustgate.admin.commands import Command
from trustgate.admin.context import AdminContext
from trustgate.cluster.nodes import ClusterNode, list_nodes, node_findings


class NodesFound(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes of the database, and what is wrong with them."""

    #: None: the database is a file, which one process serves.
    nodes: tuple[ClusterNode, ...] | None
    #: A sentence each.
    findings: tuple[str, ...] = ()


class NodeList(Command[NodesFound], frozen=True, kw_only=True, tag="node.list"):
    result = NodesFound


async def node_list(context: AdminContext, command: NodeList) -> NodesFound:
    """Look the nodes up in the database: a server that is asleep is shown, too."""
    postgres = context.settings.postgres()
    if postgres is None:
        return NodesFound(nodes=None)
    from trustgate.store.postgres.connecting import connect

    connection = await connect(postgres, "status")
    try:
        nodes = await list_nodes(connection)
    finally:
        await connection.close()
    return NodesFound(nodes=tuple(nodes), findings=tuple(node_findings(nodes)))
