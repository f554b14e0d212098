"""Commands that choose what to own: select."""
