"""The command line ``nanofleet``: a noun, then a verb, on top of ``controller.Fleet``.

One file for each noun holds its commands; what they share is apart: ``output`` (how a result is
printed), ``failures`` (how an error is printed; its code is of ``protos.exit_codes``), ``options``,
``session`` (from a command to the fleet), ``units`` (numbers for people) and ``plain`` (messages as
dictionaries). Nothing heavy is imported until a command runs.
"""
