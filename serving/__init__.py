"""Running a model, at the facility and at the hospital."""
