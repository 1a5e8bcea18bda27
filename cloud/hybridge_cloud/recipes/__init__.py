"""Greengrass recipes, checked against what nucleus lite and nucleus classic make of them."""
