"""Several processes on one Postgres: nodes and their leases, roles of one node at a time, changes that all take in.

The processes share nothing but the database. A gateway whose database is a file loads the names of this room alone.
"""
