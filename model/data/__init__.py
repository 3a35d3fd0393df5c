"""Events and products: one schema, readers, importers, cleaning, splits, and a synthetic shop."""
