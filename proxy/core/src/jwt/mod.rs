//! JSON Web Tokens (RFC 7519): read, and verified with a set of keys (RFC 7517).
//!
//! Sets are read once, when configuration is converted or when they were fetched. A token is read in two steps: what decides
//! about it at once ([`Token`]), and all of its claims only where somebody wants them ([`Token::payload`]).
//!
//! What is refused, and as what, follows Envoy (`source/common/jwt`). We refuse more: a signature that is not of the kind that its
//! key is for, RSA keys of less than 2048 bits, tokens from the future, and names that are given twice.

mod fault;
mod json;
mod keys;
mod token;

#[cfg(test)]
mod tests;

pub use fault::JwtError;
pub use keys::{Algorithm, Jwks};
pub use token::{Audiences, Buffers, Token};
