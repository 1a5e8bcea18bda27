"""What both sides read and write: documents, names, states, errors. Standard library only, stubs aside."""
