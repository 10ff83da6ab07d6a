"""Whether cases of the cohort may have been seen before: what a person should look at."""
