//! Wire message to validated model: pure functions, every field decided.
