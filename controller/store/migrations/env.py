"""How Alembic runs the migrations: on the connection, and in the transaction, of the caller.

There is no offline mode and no alembic.ini: the database is brought up to date when it is opened
(controller/store/database.py), in the transaction that found it old.
"""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
