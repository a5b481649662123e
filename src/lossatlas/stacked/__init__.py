"""Replicas trained together: the jobs of a sweep that differ only in seed become one vectorised run.

On a small net nearly all time is overhead per call, so twenty seeds cost little more than a few of them.

stack.py     the module that trains R replicas: parameters with a leading axis R, vmap over one mini-batch each
optim.py     what an optimiser must do for R replicas at once: own learning rate, own gradient norm
group.py     which jobs of a sweep may share a run
rounds.py    methods that play rounds and carry the axis R themselves
run.py       one stacked run: built as R single runs, one Trainer, R records
The launcher, hydra/launcher=stacked, is hydra_plugins/lossatlas_stacked.py.
"""
