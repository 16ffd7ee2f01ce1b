//! What is fuzzed.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrider_config::convert::{self, Options, ResourceKind, ResourceReader};
use outrider_core::jwt::{Buffers, Jwks, JwtError, Token};
use outrider_core::oauth2::exchange::{Tokens, lifetime_of};
use outrider_core::oauth2::seal::Seal;
use outrider_core::oauth2::state::State;
use outrider_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use outrider_proto::{Descriptors, any, load, validate};

use crate::expression;
use crate::mutate::Shape;
use crate::seeds;

/// What an input came to: hashes of whatever tells one way through the code from another.
pub type Outcome = HashSet<u64>;

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A resource that a control plane sends: decoded and converted.
    Resource(ResourceKind),
    /// A bootstrap: text, rules, conversion.
    Bootstrap,
    /// PROXY protocol, both versions.
    ProxyProtocol,
    /// The ClientHello that tls_inspector looks at.
    ClientHello,
    /// An HTTP/1 response and its body.
    Http1Response,
    /// A JSON Web Token: its header and its payload, a line each, before they are encoded.
    Token,
    /// A set of keys for tokens.
    KeySet,
    /// What users bring back from an authorization server, and what it answers: a state before it is encoded, a sealed cookie and
    /// the answer of a token endpoint, a line each.
    Login,
    /// An expression of CEL: parsed, compiled, evaluated.
    Expression,
    /// Messages of a control plane on the wire, and what the subscriptions make of them: state of the world, or delta.
    Stream(bool),
}

/// A target.
pub struct Target {
    what: What,
    reader: ResourceReader,
    descriptors: Descriptors,
}

/// All targets.
pub fn all() -> Vec<What> {
    let resources = ResourceKind::ALL.into_iter().map(What::Resource);
    let others = [
        What::Bootstrap,
        What::ProxyProtocol,
        What::ClientHello,
        What::Http1Response,
        What::Token,
        What::KeySet,
        What::Login,
        What::Expression,
        What::Stream(false),
        What::Stream(true),
    ];
    resources.chain(others).collect()
}

impl What {
    /// Its name on the command line and in the file system.
    pub fn name(self) -> String {
        match self {
            Self::Resource(kind) => {
                let name = any::type_name(kind.type_url());
                name.rsplit('.').next().unwrap_or(name).to_lowercase()
            }
            Self::Bootstrap => "bootstrap".into(),
            Self::ProxyProtocol => "proxy-protocol".into(),
            Self::ClientHello => "client-hello".into(),
            Self::Http1Response => "http1-response".into(),
            Self::Token => "token".into(),
            Self::KeySet => "key-set".into(),
            Self::Login => "login".into(),
            Self::Expression => "expression".into(),
            Self::Stream(false) => "stream-sotw".into(),
            Self::Stream(true) => "stream-delta".into(),
        }
    }

    /// The target of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        all().into_iter().find(|what| what.name() == name)
    }

    /// What its inputs are made of.
    pub const fn shape(self) -> Shape {
        match self {
            Self::Resource(_) => Shape::Message,
            Self::Bootstrap => Shape::Yaml,
            _ => Shape::Bytes,
        }
    }

    /// What it begins with.
    pub fn seeds(self) -> Vec<Vec<u8>> {
        let mut seeds = match self {
            Self::Resource(kind) => seeds::messages(any::type_name(kind.type_url())),
            Self::Bootstrap => seeds::bootstraps(),
            Self::ProxyProtocol => vec![
                b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nGET / HTTP/1.1\r\n".to_vec(),
                b"PROXY TCP6 1::2 3::4 5 6\r\n".to_vec(),
                b"PROXY UNKNOWN whatever\r\n".to_vec(),
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x09\0\x0arest"
                    .to_vec(),
                [&b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x26"[..], &[7; 38]].concat(),
                b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(),
            ],
            Self::ClientHello => vec![client_hello()],
            Self::Http1Response => vec![
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: y\r\n\r\nhello".to_vec(),
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n"
                    .to_vec(),
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec(),
                b"HTTP/1.0 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
                    .to_vec(),
            ],
            Self::Token => vec![
                br#"{"alg":"ES256","kid":"k"}
{"iss":"i","sub":"s","aud":["a","b"],"exp":4102444800,"nbf":1,"iat":1,"jti":"j","x":{"y":[1,null,true,"z"]}}"#
                    .to_vec(),
                b"{\"alg\":\"none\"}\n{}".to_vec(),
            ],
            Self::KeySet => vec![
                br#"{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"HS256","kid":"k"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#.to_vec(),
                br#"{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"},{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#.to_vec(),
            ],
            Self::Login => vec![
                br#"{"url":"http://a.test/x?y","csrf_token":"n.c","flow_id":"0123456789abcdef"}
P6ZphNMILhBKdJ3hKN3haiguMkefUinijzILSlB-iOA
{"access_token":"a","id_token":"b","refresh_token":"c","expires_in":"1e2"}"#
                    .to_vec(),
                b"[1]\nAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n{\"expires_in\":-1}".to_vec(),
            ],
            Self::Expression => expression::SEEDS.map(|text| text.as_bytes().to_vec()).to_vec(),
            Self::Stream(delta) => outrider_xds::fuzz::seeds(delta),
        };
        let regressions =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(self.name());
        seeds.extend(seeds::list(&regressions).iter().filter_map(|file| std::fs::read(file).ok()));
        if seeds.is_empty() {
            seeds.push(Vec::new());
        }
        seeds
    }
}

impl Target {
    /// The target for `what`.
    pub fn new(what: What) -> Self {
        Self { what, reader: ResourceReader::default(), descriptors: Descriptors::load() }
    }

    /// Reads `input`. Whatever it is, this returns.
    pub fn run(&mut self, input: &[u8]) -> Outcome {
        let mut outcome = Outcome::new();
        match self.what {
            What::Resource(kind) => {
                let options = Options { ads: true, ads_delta: true, ..Options::default() };
                let (result, ledger) = self.reader.read(kind, "fuzz", input, &options);
                note(&mut outcome, "ok", if result.is_ok() { "yes" } else { "no" });
                for problem in result.err().into_iter().flatten() {
                    note(&mut outcome, &problem.path, &problem.message);
                }
                for (path, why) in ledger.inert.iter().chain(&ledger.refused) {
                    note(&mut outcome, path, why);
                }
                for path in &ledger.unknown {
                    note(&mut outcome, path, "unknown");
                }
            }
            What::Bootstrap => self.bootstrap(&String::from_utf8_lossy(input), &mut outcome),
            What::ProxyProtocol => number(&mut outcome, outrider_net::listener::fuzz::proxy_protocol(input)),
            What::Token => note(&mut outcome, "token", &token(input)),
            What::KeySet => {
                let read = Jwks::parse(input).map(|keys| keys.left_out().to_string());
                note(&mut outcome, "keys", &read.unwrap_or_else(|error| error.name().to_owned()));
            }
            What::Login => login(&mut outcome, input),
            What::Expression => note(&mut outcome, "cel", &expression::run(&String::from_utf8_lossy(input))),
            What::ClientHello => number(&mut outcome, outrider_net::listener::fuzz::client_hello(input)),
            What::Http1Response => number(&mut outcome, outrider_upstream::pool::fuzz::http1_response(input)),
            What::Stream(delta) => outcome.extend(outrider_xds::fuzz::stream(delta, input)),
        }
        outcome
    }

    fn bootstrap(&self, text: &str, outcome: &mut Outcome) {
        let options = load::ParseOptions::default();
        let name = "envoy.config.bootstrap.v3.Bootstrap";
        let loaded = match load::parse(&self.descriptors, text, "fuzz.yaml", name, options) {
            Ok(loaded) => loaded,
            Err(problems) => {
                for problem in problems.0 {
                    note(outcome, &problem.path, &problem.message);
                }
                return;
            }
        };
        for problem in validate::check(&loaded.message, &loaded.lines) {
            note(outcome, &problem.path, &problem.message);
        }
        let Ok(message) = loaded.typed::<Bootstrap>() else { return };
        let (result, ledger) = convert::bootstrap(&message, &Options::default());
        for problem in result.err().into_iter().flatten() {
            note(outcome, &problem.path, &problem.message);
        }
        for (path, why) in &ledger.inert {
            note(outcome, path, why);
        }
    }
}

fn number(outcome: &mut Outcome, number: u64) {
    outcome.insert(number);
}

/// Notes what is said of a field, without what differs between two inputs that went the same way: numbers, and what is
/// quoted.
fn note(outcome: &mut Outcome, path: &str, text: &str) {
    let mut hasher = DefaultHasher::new();
    let mut quoted = false;
    for c in path.chars().chain([' ']).chain(text.chars()) {
        match c {
            '"' | '\'' | '`' => quoted = !quoted,
            '0'..='9' => {}
            c if !quoted => c.hash(&mut hasher),
            _ => {}
        }
    }
    outcome.insert(hasher.finish());
}

/// What becomes of a token with this header and this payload.
fn token(input: &[u8]) -> String {
    let mut lines = input.splitn(2, |byte| *byte == b'\n');
    let mut part = || URL_SAFE_NO_PAD.encode(lines.next().unwrap_or_default());
    let text = format!("{}.{}.AAAA", part(), part());
    let mut buffers = Buffers::default();
    match Token::parse(text.as_bytes(), &mut buffers) {
        Ok(token) => {
            let time = token.check_time(1000, 60).err().map_or("in time", JwtError::name);
            format!("{time} {} {}", token.header().is_some(), token.payload().is_some())
        }
        Err(error) => error.to_string(),
    }
}

/// What becomes of what a user brings, and of what a token endpoint answers.
fn login(outcome: &mut Outcome, input: &[u8]) {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (state, sealed, answer) = (line(), line(), line());
    let seal = Seal::new(b"macsecret");
    for text in [URL_SAFE_NO_PAD.encode(state).as_bytes(), state] {
        match State::parse(text) {
            Ok(state) => {
                let signed = seal.is_csrf(state.csrf.as_bytes());
                note(outcome, "state", &format!("{} {signed}", state.flow.is_empty()));
                assert_eq!(
                    State::parse(state.encode().as_bytes()).as_ref(),
                    Ok(&state),
                    "written and read again"
                );
            }
            Err(error) => note(outcome, "state", error.to_string().split(':').next().unwrap_or_default()),
        }
    }
    let opened = seal.decrypt(sealed).err();
    note(outcome, "sealed", &opened.map_or_else(String::new, |error| error.to_string()));
    match Tokens::parse(answer, std::time::Duration::ZERO) {
        Ok(tokens) => {
            let said = lifetime_of(&tokens.id, 1000).is_some();
            note(
                outcome,
                "tokens",
                &format!("{} {} {said}", tokens.id.is_empty(), tokens.refresh.is_empty()),
            );
        }
        Err(error) => note(outcome, "tokens", &error.to_string()),
    }
}

/// A ClientHello with a server name and ALPN.
fn client_hello() -> Vec<u8> {
    let extension =
        |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat();
    let name = extension(0, b"\0\x09\0\0\x06a.test");
    let alpn = extension(16, b"\0\x0c\x02h2\x08http/1.1");
    let extensions = [name, alpn, extension(43, b"\x02\x03\x04")].concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(b"\0\0\x02\x13\x01\x01\0");
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1, length[1], length[2], length[3]], &body[..]].concat();
    [&[22, 3, 1], &(message.len() as u16).to_be_bytes()[..], &message].concat()
}
