"""The command line: a thin skin over ``Broker``. One file a command; errors become exit codes in ``exits.py`` only."""
