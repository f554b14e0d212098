"""Experts: the members of a pool, behind one contract."""
