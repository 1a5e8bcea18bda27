"""From a run to a package: export both graphs, prove that they answer as torch did, write them down."""
