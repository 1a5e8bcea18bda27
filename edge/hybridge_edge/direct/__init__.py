"""The direct socket: inferences of the device's own programs without grpc between, and tensors in shared memory.

A call costs grpc more than a small model takes, and its copies of a large tensor more than some models. On one device
neither is needed: a request is the same protobuf message behind five bytes of head, and a large tensor lies in memory
that the client made and the server maps. docs/direct.md has the format.
"""
