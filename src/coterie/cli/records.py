"""Commands on records: import, describe, lint, merge, export, suggest."""
