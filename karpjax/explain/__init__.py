"""From a restored run to reasons: what its features know."""
