"""The command line: reads arguments, calls the room that does the work, prints. It decides nothing.

Data goes to stdout and everything else to stderr; exit codes are 0 done, 1 failed, 2 wrong usage or settings.
"""
