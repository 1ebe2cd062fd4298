"""Runs one run directory, whatever started it, with one process or several. The only room of
`launch` that trains.
"""
