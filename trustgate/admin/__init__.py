"""The control plane: one set of commands, done here (``local``), or sent to the server (``remote``)."""
