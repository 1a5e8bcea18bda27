"""Greengrass components: build their artifacts, fill their recipes, publish both once."""
