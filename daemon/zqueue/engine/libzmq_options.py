"""A side's options as libzmq has them: zmq_setsockopt(3)."""

from __future__ import annotations

import zmq

from zqueue.engine import LONGEST_SUBSCRIPTION, Plan, Side, SocketOptions


def socket_options(plan: Plan, side: Side) -> dict[int, int]:
    """The options to set on a side's socket, ``zmq.SNDHWM`` and so on, and their values."""
    if side is Side.FRONTEND:
        options = _options(plan.frontend.options, plan.frontend.connect)
        if plan.type == "queue":
            # A ROUTER drops what does not fit; nothing may be dropped, unless the config says so.
            options[zmq.SNDHWM] = plan.frontend.options.reply_high_water_mark
        elif plan.type == "forwarder":
            # What an XSUB sends is subscriptions, and it drops those that do not fit, in silence.
            options[zmq.SNDHWM] = 0
        return options
    options = _options(plan.backend.options, plan.backend.connect)
    if plan.type == "forwarder":
        # What an XPUB receives is subscriptions; publications of any size still pass.
        options.setdefault(zmq.MAXMSGSIZE, LONGEST_SUBSCRIPTION)
    else:
        # Otherwise requests would be given to workers that are not there yet.
        options[zmq.IMMEDIATE] = 1
    return options


def _options(side: SocketOptions, connect: tuple[str, ...]) -> dict[int, int]:
    options: dict[int, int] = {
        zmq.SNDHWM: side.high_water_mark,
        zmq.RCVHWM: side.high_water_mark,
        zmq.LINGER: _milliseconds(side.linger),
        zmq.HANDSHAKE_IVL: _milliseconds(side.handshake_timeout),
        zmq.RECONNECT_IVL: _milliseconds(side.reconnect),
        zmq.RECONNECT_IVL_MAX: _milliseconds(side.reconnect_max),
        zmq.IPV6: int(side.ipv6 or any("[" in endpoint for endpoint in connect)),
    }
    if side.tcp_keepalive is False:
        options[zmq.TCP_KEEPALIVE] = 0
    elif side.tcp_keepalive is not None:
        options[zmq.TCP_KEEPALIVE] = 1
        options[zmq.TCP_KEEPALIVE_IDLE] = max(1, round(side.tcp_keepalive))
        if side.tcp_keepalive_interval is not None:
            options[zmq.TCP_KEEPALIVE_INTVL] = max(1, round(side.tcp_keepalive_interval))
        if side.tcp_keepalive_count is not None:
            options[zmq.TCP_KEEPALIVE_CNT] = side.tcp_keepalive_count
    if side.heartbeat is not None:
        options[zmq.HEARTBEAT_IVL] = _milliseconds(side.heartbeat)
        if side.heartbeat_timeout is not None:
            options[zmq.HEARTBEAT_TIMEOUT] = _milliseconds(side.heartbeat_timeout)
    if side.max_message_size is not None:
        options[zmq.MAXMSGSIZE] = side.max_message_size
    if side.send_buffer is not None:
        options[zmq.SNDBUF] = side.send_buffer
    if side.receive_buffer is not None:
        options[zmq.RCVBUF] = side.receive_buffer
    return options


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
