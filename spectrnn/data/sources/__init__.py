"""Data sources: folders, manifests, published datasets and synthetic speech."""
