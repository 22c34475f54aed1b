#!/bin/sh
# A device of the demo fleet: joins with the invitation that its controller leaves, once; then runs.
set -eu
name=${DEVICE:-$(hostname)}
invitation=${INVITATIONS:-/invitations}/$name

if [ ! -e "$NANOFLEET_STATE/identity/chain.pem" ]; then
    echo "$name waits for its invitation"
    until [ -s "$invitation" ]; do sleep 1; done
    read -r line < "$invitation"
    nanofleet-agent join "${line##* }" --advertise "${ADVERTISE:-$name:7401}"
    rm -f "$invitation"
fi
exec nanofleet-agent run "$@"
