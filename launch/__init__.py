"""Orchestration: a spec becomes a plan, a plan becomes trials, a backend runs them, MLflow
remembers them.
"""
