"""Pages for people: report.html of one result, and the comparison of several, each one self-contained file."""
