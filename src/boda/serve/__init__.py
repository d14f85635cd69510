"""Models at work: a conversation on the terminal."""
