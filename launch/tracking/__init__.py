"""Mirrors journals into MLflow. The only room of `launch` that imports mlflow."""
