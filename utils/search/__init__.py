"""The search for a method's settings: the space, its trials, their report."""
