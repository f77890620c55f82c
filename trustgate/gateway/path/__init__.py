"""The request path: eleven steps (``pipeline``), and a file for each step that needs one."""
