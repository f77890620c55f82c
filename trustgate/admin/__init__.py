"""The control plane: one set of commands, done here (``local``), or carried to whoever can (``remote``)."""
