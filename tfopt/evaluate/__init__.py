"""Files judged: reports, contents, differences, speed."""
