"""Making the agent a service of a device, and undoing it: `nanofleet-agent install`, `uninstall`.

place.py says what goes where, unit.py and settings.py what is in the files, steps.py what can be
done to a machine, plan.py what is done. Plans are lists of steps, made without touching anything,
so that `--dry-run` prints just what would be done.
"""
