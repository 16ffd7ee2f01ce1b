//! Stats exposition and access logs.
