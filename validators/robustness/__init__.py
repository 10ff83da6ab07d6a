"""What a model's performance does when its inputs are a little worse than those of the cohort."""
