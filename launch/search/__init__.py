"""Hyper-parameter search: carries out what a spec's `search:` asks for."""
