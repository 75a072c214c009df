"""A sweep's runs and evaluations as tasks of a Ray cluster.

Three kinds of processes take part, each with a module of its own:

- `client`: the process that the user started. It checks the address, starts the driver and shows progress.
- `driver`: a process on the same machine that is connected to Ray. When the cluster goes away, Ray kills the
  connected process without raising in Python. The client survives that and reports it.
- `node`: processes that Ray starts on the nodes. Each of them trains or evaluates one adapter.

All nodes see the same output folder. If a node dies, Ray repeats its task on another node, which resumes from
the checkpoints of a run and the finished languages of an evaluation.
"""
