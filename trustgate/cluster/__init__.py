"""Several processes on one Postgres: which of them are alive, which does what only one may do, and what each has heard.

The processes share nothing but the database. A gateway whose database is a file loads the names of this room alone.
"""
