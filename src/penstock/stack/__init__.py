"""`penstock stack`: the whole private side in one process, against a platform elsewhere. And what `penstock up` shares with it.

It only composes: `penstock.setup` makes or completes the folder, then the proxy and the agent start, the roles that also run
alone. There is no second code path.
"""
