"""The tables of this room.

``nodes`` has a row for each process that may be alive, ``roles`` one for each thing that one process at a time does,
``changes`` one for each change of an operator, and ``change_version`` a single one: the number of the last change.
"""

from __future__ import annotations

#: Statements that make the tables where they are missing.
SCHEMA = """
CREATE TABLE IF NOT EXISTS nodes (
    node_id text PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    address text NOT NULL,
    started_us bigint NOT NULL,
    lease_until timestamptz NOT NULL,
    -- The last change that the node has taken in.
    taken_in bigint NOT NULL,
    -- How far the node's clock is ahead of the database's, microseconds.
    skew_us bigint NOT NULL DEFAULT 0,
    -- Why the node cannot hold a role, by role.
    unfit jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE IF NOT EXISTS roles (
    role text PRIMARY KEY,
    -- The burial of a node frees its roles.
    node_id text REFERENCES nodes (node_id) ON DELETE SET NULL,
    -- One more at each taking.
    epoch bigint NOT NULL DEFAULT 0,
    since timestamptz
);
CREATE INDEX IF NOT EXISTS roles_node ON roles (node_id);
CREATE TABLE IF NOT EXISTS change_version (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL
);
INSERT INTO change_version (version) VALUES (0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS changes (
    version bigint PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    body bytea NOT NULL
);
"""
