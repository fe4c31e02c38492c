"""A teacher for any student: what it learns (`losses`), and how it is fitted."""
