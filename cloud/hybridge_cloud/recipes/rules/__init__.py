"""The rules, a concern a file; ``table`` lists them all."""
