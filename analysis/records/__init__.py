"""What is known of finished and running trials: MLflow's records, committed ones, and the authors'
released runs.
"""
