"""One OpenAI endpoint in front of every expert of a pool: ``coterie serve``."""
