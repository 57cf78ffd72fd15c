"""Sweeps: a recipe under many settings and seeds. What is to be run (`definition`), what is done (`state`), running it
(`launch`), and what came of it (`results`, `picture`).
"""
