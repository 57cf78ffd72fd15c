"""Sweeps: one recipe under many settings and seeds.

`definition` reads a sweep file, `state` finds out which runs are finished, `common/launching.py` runs the others, and
`results` reports; `command` is `modernbert sweep`.
"""
