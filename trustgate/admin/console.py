"""The commands on the console."""

from __future__ import annotations

from trustgate.admin.consoling import ConsoleEnd, ConsoleEnded, ConsoleLink, ConsoleOpen
from trustgate.admin.context import AdminContext, ConsoleDoor
from trustgate.errors import Conflict


async def console_open(context: AdminContext, command: ConsoleOpen) -> ConsoleLink:
    return _door(context).open()


async def console_end(context: AdminContext, command: ConsoleEnd) -> ConsoleEnded:
    return ConsoleEnded(sessions=_door(context).end_all())


def _door(context: AdminContext) -> ConsoleDoor:
    if context.console is None:
        raise Conflict("The console is a page of the running server, and none runs.", hint="trustgate serve")
    return context.console
