"""Kinds of devices, as data: one JSON file each, read by ``target``."""
