"""What the server would have said: its own rules, detection and decisions on a clock that is turned by hand."""
