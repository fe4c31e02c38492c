"""The charts of the pages as Vega-Lite specifications, one file per subject; `spec` holds their parts."""
