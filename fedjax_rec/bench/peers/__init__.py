"""The same rounds by other libraries, each in an environment of its own, and by this one.

`workloads` makes the work and lays it in a file; `*_workload.py` are what a user of each library
writes for it, scripts that import nothing from fedjax_rec (but ours) and share `answer`;
`environments` installs, `played` runs and reads, `compared` judges, `page` and `command` tell.
"""
