"""What the records say: estimates, verdicts, tables, figures and one page. Reads MLflow, never a
run directory.
"""
