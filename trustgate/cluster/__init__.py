"""Several processes on one Postgres: which of them are alive, which does what only one may do, and what each has heard.

The processes share nothing but the database. Nothing here is loaded by a gateway that serves alone.
"""
