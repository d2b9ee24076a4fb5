"""Experiments: configurations, run folders, the command line, tables and figures."""
