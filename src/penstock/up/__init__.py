"""`penstock up`: every role in one process, over its real wire on loopback, in one folder.

It only composes: it writes the settings of each role, starts the roles that also run alone, and speaks to them as any
client would. There is no second code path.
"""
