"""Workload identity: whether an assertion of somebody else's issuer is what a rule asks for.

All but `fetch` and `conditions` decide and do no I/O: `fetch` dials nothing that a stranger chose, `conditions` has a process
of its own for what a stranger wrote. Whose keys, and what is then granted, is the service's matter. A `Denial` carries its
reason to the history alone.
"""
