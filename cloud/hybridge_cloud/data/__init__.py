"""What the devices sent back: batches, the labels that came later, and the numbered datasets made of both."""
