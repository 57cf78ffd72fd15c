"""Reports of runs and benchmarks: HTML, Markdown and numbers from the same data.

`records` reads what a run has written and `series` computes its curves; `curves`, `sections` and `compare` make of them
the charts, tables and texts of a `page`, which `html` and `svg` draw. `command` is `modernbert report`.
"""
