"""Embeddings: files of pooled vectors, exact search in them, and the choice of clips to label."""
