//! HTTP connection manager, routing and the router.
