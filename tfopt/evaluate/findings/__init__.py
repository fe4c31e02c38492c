"""What a report says about the finished file in addition to its rows: layers, classes, calibration, worst samples."""
