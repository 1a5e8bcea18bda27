"""From a request to its answer: who may run when, on which version, held to what, and how that is told."""
