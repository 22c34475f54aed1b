#!/bin/sh
# The demo fleet's controller: makes the fleet once, invites each named device, and waits for it.
#
#   invite kitchen workshop
#
# An invitation is a line for the device to run, in a folder that both see; it can be spent once.
set -eu
folder=${INVITATIONS:-/invitations}
here=${ENROLMENT_HOST:-controller}
port=${ENROLMENT_PORT:-7402}

[ -e "$NANOFLEET_HOME/fleet.db" ] || nanofleet init --name demo
for device in "$@"; do
    if nanofleet device show "$device" > /dev/null 2>&1; then
        echo "$device is in the fleet already"
        continue
    fi
    nanofleet device token "$device" --port "$port" --address "$here:$port" | while read -r line; do
        (umask 077 && echo "$line" > "$folder/.$device" && mv "$folder/.$device" "$folder/$device")
    done
done
nanofleet device list
