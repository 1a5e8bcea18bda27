"""Between the network and the server: a process of its own that lets in what the server can bear, and no more."""
