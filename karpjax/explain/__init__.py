"""Explanations of restored runs: the knowledge of labels in their features."""
