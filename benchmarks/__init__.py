"""Measurements of the project's own claims, each a command that anybody can run again."""
