"""Behaviour and product data in, a transformer that recommends and searches out."""
