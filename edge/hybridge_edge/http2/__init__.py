"""gRPC over HTTP/2 (RFC 9113), the server's side of it, as far as the verbs of this device need it.

``Connection`` is the protocol without a socket; ``Listener`` brings sockets and threads to it. Neither knows what the
verbs do. See docs/adr/0015-own-transport.md for why it is ours.
"""
