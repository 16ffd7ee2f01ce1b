//! End to end: what has no oracle.
