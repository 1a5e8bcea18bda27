"""The loop, told command by command: what a newcomer runs first, and what the tests run whole."""
