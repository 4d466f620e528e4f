"""What providers send, read."""
