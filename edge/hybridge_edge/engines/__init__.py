"""One inference runtime a file, imported when a package needs it."""
