"""Typed routes, one module for each kind of user."""
