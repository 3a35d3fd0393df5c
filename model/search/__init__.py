"""Product search: queries to ranked products."""
