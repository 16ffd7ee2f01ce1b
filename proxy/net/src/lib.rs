//! Sockets, listeners, listener filters, filter-chain match, TLS, tcp_proxy.
