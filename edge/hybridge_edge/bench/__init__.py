"""Loads a running server from other processes and says where the time went."""
