"""From a commit to a staged deployment, for a pull request: ``make model-ci``.

It has no pipeline of its own. The same assets run as in production, on a stack of their own, beside a copy of production's champion.
"""
