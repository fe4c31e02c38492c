"""Run a recipe from start to finish."""
