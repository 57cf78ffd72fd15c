"""Benchmarks: models on the tasks of a suite, each with several seeds, and whether their scores differ.

`jobs` says what there is to run and what is finished, `common/launching.py` runs it, `facts` is what is known of a task
before that, `significance` and `results` compare the scores, `page` and `picture` show them beside `published` ones;
`command` is `modernbert benchmark`.
"""
