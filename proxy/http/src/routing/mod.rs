//! Routes: from a request's head to what is done with it.

/// A compiled route table.
#[derive(Debug, Default)]
pub struct RouteTable {}

/// A route that was chosen for a request.
#[derive(Debug)]
pub struct Selected {}
