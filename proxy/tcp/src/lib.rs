//! The tcp_proxy network filter: bytes between a downstream and an upstream connection.
