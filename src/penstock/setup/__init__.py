"""Provisioning of a private side: from a credential to a CA, a registered tunnel, a server certificate and an agent's token.

The law of this room: every step looks before it acts, and writes down what it is about to do before it asks anybody else to
do it. So the same command finishes what an interrupted one began, makes nothing twice, and does nothing when all is done.
Private keys are made here and go nowhere but into the output.
"""
