"""What a Bento function sees, and the runtime that runs it in the jail.

Authors use `bento.api` (the errors), `bento.pad` and, in their tests, `bento.testing`. This file imports nothing: a function's
start pays for every import.
"""
