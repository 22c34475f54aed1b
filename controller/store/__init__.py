"""The controller's state: one SQLite database, one module for each concern.

``Store`` opens it and owns the transactions; the functions of ``devices``, ``tokens``, ``names``
and ``jobs`` each do one thing inside a transaction that the caller opened, so that what belongs
together commits together.
"""

from controller.store.database import Store

__all__ = ["Store"]
