"""Immutable bytes and their formats: digests, store, base models, adapters, datasets."""
