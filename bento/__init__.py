"""The recommender and search model as a BentoML service."""
