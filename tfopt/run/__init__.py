"""One recipe from beginning to end."""
