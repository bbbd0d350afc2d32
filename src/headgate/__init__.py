"""Headgate: live streaming data for AI agents, under control."""

__version__ = "0.1.0"
