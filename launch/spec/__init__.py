"""From a YAML file to a Spec: what it may say, what it resolves to, and every mistake with its
place.
"""
