"""Inputs that nobody wrote, for everything that reads what a stranger may write: `make fuzz`.

A target is a property: a function of one drawn input that must not raise. `tests/fuzz` runs each a few hundred times in every
`make check`; `python -m fuzz` runs them for as long as it is told. What it finds, Hypothesis makes small and prints.
"""
