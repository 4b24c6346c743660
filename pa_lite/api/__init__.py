"""The public API, one module for each subject; `pa_lite` itself has its names. The commands call nothing below it."""
