//! The state machine, driven by a client that is a model of the protocol.
