//! `etcd://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...][/PREFIX][?ca=FILE&cert=FILE&key=FILE&password-file=FILE]`.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use http::Uri;

/// etcd's port for clients.
const PORT: u16 = 2379;
/// Where keys are when nobody says.
const PREFIX: &str = "/outrider";
const FORM: &str =
    "want etcd://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...][/PREFIX][?ca=FILE&cert=FILE&key=FILE]";

/// Where etcd is, and how to speak to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Spec {
    /// `host:port`, at least one.
    pub(super) endpoints: Vec<String>,
    /// Without a slash at its end.
    pub(super) prefix: String,
    /// The authority that signs the servers' certificates; `None`: no TLS.
    pub(super) ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    /// Name and password.
    pub(super) user: Option<(String, Password)>,
}

/// How to come by a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Password {
    Text(String),
    File(PathBuf),
}

impl Password {
    /// The password, without the end of line that files have.
    pub(super) fn read(&self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => fs::read_to_string(path)
                .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("password-file {}: {error}", path.display())),
        }
    }
}

/// Without the password.
impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("ca", &self.ca)
            .field("identity", &self.identity)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish()
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.ca.is_some() { " with TLS" } else { "" };
        write!(f, "etcd at {}{tls}, below {}", self.endpoints.join(","), self.prefix)
    }
}

impl Spec {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it, without the password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("etcd://").ok_or_else(|| format!("not an etcd address; {FORM}"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // A password may have any character that is not taken here: `/` and `?` are written %2F and %3F.
        let (rest, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, rest),
        };
        let endpoints = hosts.split(',').map(endpoint).collect::<Result<Vec<_>, _>>()?;
        let prefix = match prefix.trim_matches('/') {
            "" => PREFIX.to_owned(),
            prefix => format!("/{}", decoded(prefix)?),
        };
        let mut files = Files::parse(query)?;
        let identity = match (files.cert.take(), files.key.take()) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((cert, key)),
            (Some(_), None) => return Err("cert= is given without key=; give both".into()),
            (None, Some(_)) => return Err("key= is given without cert=; give both".into()),
        };
        if identity.is_some() && files.ca.is_none() {
            return Err("cert= and key= are given without ca=; give the authority of the servers too".into());
        }
        let user = match (user.map(|user| user.split_once(':').unwrap_or((user, ""))), files.password.take())
        {
            (None, None) => None,
            (None, Some(_)) => {
                return Err("password-file= is given without a user; put USER@ before the host".into());
            }
            (Some((_, password)), Some(_)) if !password.is_empty() => {
                return Err("a password and password-file= are given; give one of them".into());
            }
            (Some((name, _)), Some(file)) => Some((decoded(name)?, Password::File(file))),
            (Some((_, "")), None) => {
                return Err("a user is given without a password; add :PASSWORD or password-file=".into());
            }
            (Some((name, password)), None) => Some((decoded(name)?, Password::Text(decoded(password)?))),
        };
        Ok(Self { endpoints, prefix, ca: files.ca, identity, user })
    }

    /// The address of an endpoint.
    pub(super) fn uri(&self, endpoint: &str) -> Result<Uri, http::Error> {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        Uri::builder().scheme(scheme).authority(endpoint).path_and_query("/").build()
    }
}

#[derive(Default)]
struct Files {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    password: Option<PathBuf>,
}

impl Files {
    fn parse(query: &str) -> Result<Self, String> {
        let mut files = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match name {
                "ca" => &mut files.ca,
                "cert" => &mut files.cert,
                "key" => &mut files.key,
                "password-file" => &mut files.password,
                _ => return Err(format!("{name:?} is not known; use ca, cert, key or password-file")),
            };
            if value.is_empty() {
                return Err(format!("{name}= wants a file"));
            }
            if slot.replace(decoded(value)?.into()).is_some() {
                return Err(format!("{name}= is given twice"));
            }
        }
        Ok(files)
    }
}

/// `host:port`, with etcd's port when there is none.
fn endpoint(text: &str) -> Result<String, String> {
    let problem = || format!("{text:?} is no HOST:PORT; {FORM}");
    let authority: http::uri::Authority = text.parse().map_err(|_| problem())?;
    if authority.host().is_empty() || text.contains('@') {
        return Err(problem());
    }
    match authority.port() {
        Some(port) if port.as_str().parse::<u16>().is_ok_and(|port| port > 0) => Ok(text.to_owned()),
        Some(_) => Err(problem()),
        // What follows the host is no port: nothing, or a number that is too large.
        None if text.len() > authority.host().len() => Err(problem()),
        None => Ok(format!("{text}:{PORT}")),
    }
}

/// With `%2F` and the like as what they stand for.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let byte = rest
            .split_at_checked(2)
            .and_then(|(digits, after)| {
                rest = after;
                let digits = std::str::from_utf8(digits).ok().filter(|it| !it.contains(['+', '-']))?;
                u8::from_str_radix(digits, 16).ok()
            })
            .ok_or("a % is not followed by two hexadecimal digits; write %25 for % itself")?;
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| "it is no UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let spec = Spec::parse("etcd://a,b:1,[::1]:2").unwrap();
        assert_eq!(spec.endpoints, ["a:2379", "b:1", "[::1]:2"]);
        assert_eq!(spec.to_string(), "etcd at a:2379,b:1,[::1]:2, below /outrider");
        let spec = Spec::parse("etcd://me:p%40ss%2f@a/mesh/east/?ca=/c%20a&cert=/c&key=/k").unwrap();
        assert_eq!(spec.prefix, "/mesh/east");
        assert_eq!(spec.ca, Some("/c a".into()));
        assert_eq!(spec.identity, Some(("/c".into(), "/k".into())));
        assert_eq!(spec.uri("a:2379").unwrap(), "https://a:2379/");
        assert!(spec.user == Some(("me".into(), Password::Text("p@ss/".into()))));
        assert!(!format!("{spec:?}{spec}").contains("p@ss"));
        let spec = Spec::parse("etcd://me@a?password-file=/p").unwrap();
        assert!(spec.user == Some(("me".into(), Password::File("/p".into()))));
    }

    #[test]
    fn wrong_addresses_are_told_why() {
        for (text, why) in [
            ("http://a", "not an etcd address"),
            ("etcd://", "is no HOST:PORT"),
            ("etcd://a,,b", "is no HOST:PORT"),
            ("etcd://a:", "is no HOST:PORT"),
            ("etcd://a:0", "is no HOST:PORT"),
            ("etcd://a:99999", "is no HOST:PORT"),
            ("etcd://a?cert=/c", "cert= is given without key="),
            ("etcd://a?cert=/c&key=/k", "without ca="),
            ("etcd://a?ca=", "ca= wants a file"),
            ("etcd://a?ca=/a&ca=/b", "twice"),
            ("etcd://a?insecure=1", "\"insecure\" is not known"),
            ("etcd://me@a", "without a password"),
            ("etcd://a?password-file=/p", "without a user"),
            ("etcd://me:%zz@a", "hexadecimal"),
        ] {
            let error = Spec::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
