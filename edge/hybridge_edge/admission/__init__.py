"""From a hand-over to the switched pointer: everything a package must pass before it answers anybody."""
