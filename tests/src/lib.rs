//! The test harness: real upstreams, raw clients, a test CA, the oracle.
