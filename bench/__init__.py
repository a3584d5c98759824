"""`python -m bench`: the whole chain measured against the same client without it, in one run."""
