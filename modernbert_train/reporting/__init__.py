"""Reports of runs and benchmarks: HTML, Markdown and numbers from the same data."""
