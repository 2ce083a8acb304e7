"""The Python runner: loads a flow's tools, calls them, and keeps the values that are not JSON."""
