"""Packages of others on our loops, and the plugin for pytest."""
