//! One type for all byte streams: TCP, Unix sockets, TLS of either side.

/// A byte stream.
#[derive(Debug)]
pub struct IoStream {}
