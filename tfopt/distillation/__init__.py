"""A teacher for any student: what it learns (losses), from whom (teachers), and how it is fitted."""
