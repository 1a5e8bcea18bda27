"""Decoders of encoded inputs: the only code, in the cloud and on a device, that turns an encoding into numbers.

What is decoded how is declared in a package's manifest (``contract.codec``). A library is imported when it is needed.
"""
