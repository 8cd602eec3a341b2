"""The command line: one module per command, and `main`, whose table names them. Nothing imports this package."""
