"""MLflow inside our application, behind a gate that holds in the store itself."""
