"""How far the cohort's patients are from those that the model's makers say they worked with."""
