"""The options of every gRPC connection, for both sides: what one side sends, the other must allow.

A link that silently dies (Wi-Fi out of reach, a frozen board) must be noticed in seconds, and an
idle one must stay open. Three settings make that true only together: the client's keepalive, the
bound on its answer (``ping_timeout_ms``: without it a frozen peer is noticed after a minute), and
the server's leave for such pings (without it, GOAWAY "too many pings" after half a minute).
"""

from collections.abc import Sequence

Options = Sequence[tuple[str, int | str]]

# Uploads and downloads: larger chunks are no faster and cost up to 100 MB of memory on the device.
CHUNK_BYTES = 256 << 10
MAX_MESSAGE_BYTES = 4 << 20
# Initial metadata of PutArtifact: the device has taken the header and waits for chunks.
UPLOAD_BEGUN = ("nanofleet-upload", "begun")

KEEPALIVE_MS = 10_000
PING_TIMEOUT_MS = 5_000
# A little below KEEPALIVE_MS: pings that the network delays arrive in pairs.
_MIN_PING_INTERVAL_MS = 5_000

# 50 MB/s at 20 ms to and fro.
_WINDOW_BYTES = 1 << 20
# Bursts above this fail instead of queueing; a controller has a handful of calls open on a device.
_MAX_CONCURRENT_STREAMS = 100

AGENT_PORT = 7401
ENROLMENT_PORT = 7402

_BOTH: Options = (
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

_SERVER: Options = (
    *_BOTH,
    ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
    ("grpc.max_concurrent_streams", _MAX_CONCURRENT_STREAMS),
    # What of a stream may be under way. By its own measure gRPC lets several MiB be: those a device
    # would have to hold, and a client to send again when the link or the device breaks off.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
    # On, it lets two agents share one port without an error, each answering half of the calls.
    ("grpc.so_reuseport", 0),
)

_CHANNEL: Options = (
    *_BOTH,
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 10_000),
)


def server_options() -> Options:
    return _SERVER


def channel_options(server_name: str) -> Options:
    """For a channel to the server whose certificate must carry the DNS name ``server_name``.

    The address that is dialled plays no part in the check: boards change addresses.
    """
    return (*_CHANNEL, ("grpc.ssl_target_name_override", server_name))
