"""Drivers: they run conversations and do the I/O."""
