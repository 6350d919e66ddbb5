"""The file system as an argument, so that every durability test is an ordinary fast test."""
