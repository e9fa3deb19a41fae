"""Heads that several networks share: a file each."""
