//! What clients prove who they are with: passwords by user, and keys of an API.
//!
//! Neither is kept as it was written: passwords are digests already, keys become digests when they are read. So nothing
//! here shows a secret, and a look-up takes as long for a guess that is nearly right as for any other.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::HeaderValue;

/// Base64 of a SHA-1 digest, in bytes.
const HASH: usize = 28;
/// No password has this digest: it is compared with when there is no such user.
const NOBODY: [u8; HASH] = [b'-'; HASH];

/// A file of users cannot be used. Its message shows names, never hashes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HtpasswdError {
    /// There is nothing at all.
    #[error("it is empty; give a line `user:{{SHA}}hash` for each user")]
    Empty,
    /// A line without a colon.
    #[error("line {0}: `user:{{SHA}}hash` is expected, and there is no colon")]
    NoColon(usize),
    /// Nothing before or behind the colon.
    #[error("line {0}: a user and a hash are needed")]
    NoUser(usize),
    /// Two lines for a user.
    #[error("line {line}: the user {user:?} is there already")]
    Duplicate {
        /// Which, from 1.
        line: usize,
        /// Whose.
        user: String,
    },
    /// Another hash than SHA-1.
    #[error("line {line}: the hash of {user:?} is not supported; make it with `htpasswd -s` ({{SHA}})")]
    Scheme {
        /// Which, from 1.
        line: usize,
        /// Whose.
        user: String,
    },
    /// Not as long as a hash is.
    #[error(
        "line {line}: behind {{SHA}} the hash of {user:?} must have 28 characters, without spaces or carriage returns"
    )]
    Length {
        /// Which, from 1.
        line: usize,
        /// Whose.
        user: String,
    },
    /// A name that no header can carry.
    #[error("line {0}: the user's name holds control characters")]
    Name(usize),
}

/// The users of an htpasswd file with `{SHA}` hashes.
#[derive(Default)]
pub struct Users(HashMap<Box<[u8]>, User>);

/// A user.
pub struct User {
    /// The name.
    pub name: Arc<str>,
    /// The same for a header.
    pub header: HeaderValue,
    hash: [u8; HASH],
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User({:?})", self.name)
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.0.len())
    }
}

impl Users {
    /// Reads `text`; empty lines, and those that begin with `#`, say nothing.
    ///
    /// # Errors
    /// A line is no user with a SHA-1 hash, or a user is there twice.
    pub fn parse(text: &[u8]) -> Result<Self, HtpasswdError> {
        let mut users: HashMap<Box<[u8]>, User> = HashMap::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let number = number + 1;
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let (user, hash) = halves(line).ok_or(HtpasswdError::NoColon(number))?;
            if user.is_empty() || hash.is_empty() {
                return Err(HtpasswdError::NoUser(number));
            }
            let shown = || String::from_utf8_lossy(user).into_owned();
            if users.contains_key(user) {
                return Err(HtpasswdError::Duplicate { line: number, user: shown() });
            }
            let Some(hash) = hash.strip_prefix(b"{SHA}") else {
                return Err(HtpasswdError::Scheme { line: number, user: shown() });
            };
            let Ok(hash) = <[u8; HASH]>::try_from(hash) else {
                return Err(HtpasswdError::Length { line: number, user: shown() });
            };
            let header = HeaderValue::from_bytes(user).map_err(|_| HtpasswdError::Name(number))?;
            users.insert(user.into(), User { name: shown().into(), header, hash });
        }
        Ok(Self(users))
    }

    /// The user called `user`, if `password` is theirs.
    pub fn check(&self, user: &[u8], password: &[u8]) -> Option<&User> {
        let found = self.0.get(user);
        let digest = digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, password);
        let mut hash = [0; HASH];
        STANDARD.encode_slice(digest, &mut hash).ok()?;
        // Whoever is not there takes as long as whoever is.
        let expected: &[u8; HASH] = found.map_or(&NOBODY, |found| &found.hash);
        let right = verify_slices_are_equal(&hash, expected).is_ok();
        found.filter(|_| right)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none: then nobody is let through.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is before and behind the first colon.
pub fn halves(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = text.iter().position(|byte| *byte == b':')?;
    Some((text.get(..colon)?, text.get(colon + 1..)?))
}

/// What the credentials of the `Basic` scheme say, with padding or without; `None` when they are not base64.
pub fn decode_basic(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"=").unwrap_or(text);
    let text = text.strip_suffix(b"=").unwrap_or(text);
    STANDARD_NO_PAD.decode(text).ok()
}

/// Keys of an API, and whose they are. A key is found by its digest: how long that takes says nothing of other keys.
#[derive(Default)]
pub struct ApiKeys(HashMap<[u8; 32], Client>);

/// Whose a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The client's name.
    pub name: Arc<str>,
    /// The same for a header.
    pub header: HeaderValue,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

impl ApiKeys {
    /// Adds the `key` of `client`; `false` when it is there already.
    pub fn add(&mut self, key: &[u8], client: Client) -> bool {
        let Some(place) = sha256(key) else { return false };
        match self.0.entry(place) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(client);
                true
            }
        }
    }

    /// Whose `key` is.
    pub fn client(&self, key: &[u8]) -> Option<&Client> {
        self.0.get(&sha256(key)?)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn sha256(key: &[u8]) -> Option<[u8; 32]> {
    let digest = digest::digest(&SHA256, key);
    let bytes: &[u8] = digest.as_ref();
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO: &[u8] =
        b"# two\n\nuser1:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=\nuser2:{SHA}EJ9LPFDXsN9ynSmbxvjp75Bmlx8=\n";

    #[test]
    fn a_user_comes_in_with_their_own_password_alone() {
        let users = Users::parse(TWO).expect("two users");
        assert_eq!(users.len(), 2);
        assert_eq!(users.check(b"user1", b"test1").map(|user| &*user.name), Some("user1"));
        assert_eq!(users.check(b"user2", b"test2").map(|user| user.header.as_bytes()), Some(&b"user2"[..]));
        for (user, password) in
            [("user1", "test2"), ("user1", ""), ("user3", "test1"), ("", ""), ("User1", "test1")]
        {
            assert!(users.check(user.as_bytes(), password.as_bytes()).is_none(), "{user} {password}");
        }
    }

    #[test]
    fn what_is_no_user_is_told_by_its_line_and_shows_no_hash() {
        let told = |text: &str| Users::parse(text.as_bytes()).expect_err(text).to_string();
        let hash = "{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=";
        assert!(told("#x\nuser1").starts_with("line 2: "));
        assert!(told(&format!(":{hash}")).contains("a user and a hash are needed"));
        assert!(told("a:").contains("a user and a hash are needed"));
        assert_eq!(told(&format!("a:{hash}\na:{hash}")), "line 2: the user \"a\" is there already");
        assert!(told("a:$apr1$xyz").contains("htpasswd -s"));
        assert!(told(&format!("a:{hash}\r\n")).contains("carriage returns"));
        assert!(told(&format!("a\u{1}:{hash}")).contains("control characters"));
        assert!(!told("a:$apr1$xyz").contains("xyz"));
        assert!(Users::parse(b"# nobody").is_ok_and(|users| users.is_empty()));
    }

    #[test]
    fn secrets_are_not_shown() {
        let users = Users::parse(TWO).expect("two users");
        assert_eq!(format!("{users:?}"), "Users(2)");
        let mut keys = ApiKeys::default();
        let client = Client { name: "c".into(), header: HeaderValue::from_static("c") };
        assert!(keys.add(b"hush", client.clone()));
        assert!(!keys.add(b"hush", client), "a key is somebody's alone");
        assert_eq!(format!("{keys:?}"), "ApiKeys(1)");
        assert_eq!(keys.client(b"hush").map(|client| &*client.name), Some("c"));
        assert_eq!(keys.client(b"hus"), None);
        assert_eq!(keys.client(b""), None);
    }

    #[test]
    fn padding_may_be_missing_and_stray_bits_may_not_be_there() {
        let of = |text: &str| decode_basic(text.as_bytes());
        assert_eq!(of("YTpi").as_deref(), Some(&b"a:b"[..]));
        assert_eq!(of("YTpiYw==").as_deref(), Some(&b"a:bc"[..]));
        assert_eq!(of("YTpiYw=").as_deref(), Some(&b"a:bc"[..]));
        assert_eq!(of("YTpiYw").as_deref(), Some(&b"a:bc"[..]));
        assert_eq!(of("YTpiYx"), None);
        assert_eq!(of("YTpiYw==="), None);
        assert_eq!(of(" YTpi"), None);
        assert_eq!(of("=").as_deref(), Some(&b""[..]));
    }

    proptest! {
        #[test]
        fn any_text_is_users_or_an_error(text in any::<Vec<u8>>()) {
            let _ = Users::parse(&text);
            let _ = decode_basic(&text);
        }

        #[test]
        fn a_password_of_any_bytes_is_known_again(password in any::<Vec<u8>>(), other in any::<Vec<u8>>()) {
            let hash = STANDARD.encode(digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, &password));
            let users = Users::parse(format!("u:{{SHA}}{hash}").as_bytes()).expect("a user");
            prop_assert!(users.check(b"u", &password).is_some());
            prop_assert_eq!(users.check(b"u", &other).is_some(), password == other);
        }
    }
}
