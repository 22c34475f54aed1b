"""What is wrong with this device, and what to do about it: `nanofleet-agent doctor`."""
