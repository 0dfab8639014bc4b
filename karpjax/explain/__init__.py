"""From a restored run to reasons: the knowledge in its features."""
