"""How a role learns its settings: one frozen model a role, read once, from file, environment and flags.

Nothing outside this package and the roles' `config.py` reads a setting; an unknown key is an error that names its path.
"""
