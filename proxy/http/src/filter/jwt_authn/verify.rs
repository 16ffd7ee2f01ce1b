//! Whether a request has what it needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::request::Parts;
use outrider_config::model::{
    JwtAuthn, JwtLifetime, JwtLocation, JwtProvider, JwtRequirement, MetadataValue,
};
use outrider_core::jwt::{Audiences, Buffers, JwtError, Token};
use smallvec::SmallVec;

use super::Keys;
use super::extract::{Found as Extracted, tokens};

type Claims = BTreeMap<Arc<str>, MetadataValue>;

/// One request at the filter.
pub(super) struct Check<'a> {
    settings: &'a JwtAuthn,
    keys: &'a [Keys],
    parts: &'a mut Parts,
    now: Now,
    tried: &'a Tried,
    /// Somebody reads metadata.
    notes: bool,
    pub(super) found: Found,
}

/// The time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Seconds since 1970.
    wall: u64,
    pub(super) monotonic: Instant,
}

impl Now {
    pub(super) fn read() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self { wall: wall.map_or(0, |time| time.as_secs()), monotonic: Instant::now() }
    }
}

/// Providers whose keys were waited for.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// They are here, as new as can be.
    pub(super) fetched: SmallVec<[usize; 2]>,
    /// They cannot be had.
    pub(super) failed: SmallVec<[usize; 2]>,
}

/// Why a request does not meet a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Refused(JwtError),
    /// That is not known before there are keys of the provider at this place.
    Lacking(usize),
}

impl From<JwtError> for Stop {
    fn from(error: JwtError) -> Self {
        Self::Refused(error)
    }
}

/// What was found out on the way.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Dynamic metadata.
    pub(super) notes: Vec<(Arc<str>, MetadataValue)>,
    /// The request is to be routed anew.
    pub(super) clear_route: bool,
    /// How many tokens of a provider were looked up in its cache, of which there is none here.
    pub(super) looked_up: u64,
}

/// Whose tokens are asked for.
#[derive(Clone, Copy)]
enum Who<'a> {
    Provider(usize, Option<&'a Audiences>),
    Anybody { allow_failed: bool },
}

impl<'a> Check<'a> {
    pub(super) fn new(
        settings: &'a JwtAuthn,
        keys: &'a [Keys],
        parts: &'a mut Parts,
        now: Now,
        tried: &'a Tried,
        notes: bool,
    ) -> Self {
        Self { settings, keys, parts, now, tried, notes, found: Found::default() }
    }

    /// Whether the request meets `requirement`. Verified tokens are passed on, or taken out, on the way.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn require(&mut self, requirement: &'a JwtRequirement) -> Result<(), Stop> {
        match requirement {
            JwtRequirement::Nothing => Ok(()),
            JwtRequirement::Provider { provider, audiences } => {
                let known = self.settings.providers.get(*provider).ok_or(JwtError::UnknownIssuer)?;
                self.authenticate(Who::Provider(*provider, audiences.as_ref()), &known.locations)
            }
            JwtRequirement::Whoever { locations, allow_failed } => {
                self.authenticate(Who::Anybody { allow_failed: *allow_failed }, locations)
            }
            JwtRequirement::All(all) => all.iter().try_for_each(|one| self.require(one)),
            JwtRequirement::Any { of, allow_missing, allow_failed } => {
                let mut last = JwtError::Missing;
                for one in of {
                    let error = match self.require(one) {
                        Ok(()) => return Ok(()),
                        Err(Stop::Refused(error)) => error,
                        lacking @ Err(Stop::Lacking(_)) => return lacking,
                    };
                    // What is wrong with a token says more than that there is none for this one.
                    let says_more = !matches!(error, JwtError::Missing | JwtError::UnknownIssuer);
                    if says_more || last == JwtError::Missing {
                        last = error;
                    }
                }
                if *allow_failed || (*allow_missing && last == JwtError::Missing) {
                    Ok(())
                } else {
                    Err(last.into())
                }
            }
        }
    }

    /// All tokens must be good: an upstream might read another one than we did. The last one found comes first, as in Envoy.
    fn authenticate(&mut self, who: Who<'a>, locations: &'a [JwtLocation]) -> Result<(), Stop> {
        let mut tokens = tokens(self.parts, locations);
        let mut verdict = Err(JwtError::Missing);
        let mut provider = None;
        if tokens.is_empty() {
            self.note_failure(provider, JwtError::Missing);
        }
        while let Some(token) = tokens.pop() {
            verdict = match self.verify(who, &token, &mut provider) {
                Ok(()) => Ok(()),
                Err(Stop::Refused(error)) => Err(error),
                lacking @ Err(Stop::Lacking(_)) => return lacking,
            };
            if let Err(error) = verdict {
                self.note_failure(provider, error);
                if matches!(who, Who::Provider(..)) {
                    return Err(error.into());
                }
            }
        }
        match (who, verdict) {
            (Who::Anybody { allow_failed: true }, _) | (Who::Anybody { .. }, Err(JwtError::Missing)) => {
                Ok(())
            }
            (_, verdict) => Ok(verdict?),
        }
    }

    /// Verifies one token, and does what its provider wants done with good ones. `provider` becomes the one that it is of.
    fn verify(
        &mut self,
        who: Who<'a>,
        found: &Extracted<'_>,
        provider: &mut Option<&'a JwtProvider>,
    ) -> Result<(), Stop> {
        let mut buffers = Buffers::default();
        if let Who::Provider(place, _) = who {
            *provider = self.settings.providers.get(place);
            self.found.looked_up += 1;
        }
        let token = Token::parse(found.text(), &mut buffers)?;
        if !found.location.issuers.allow(&token.issuer) {
            return Err(JwtError::UnknownIssuer.into());
        }
        let (place, audiences) = match who {
            Who::Provider(place, audiences) => (place, audiences),
            Who::Anybody { .. } => (self.of_issuer(&token.issuer).ok_or(JwtError::UnknownIssuer)?, None),
        };
        let known = self.settings.providers.get(place).ok_or(JwtError::UnknownIssuer)?;
        *provider = Some(known);
        token.check_time(self.now.wall, known.clock_skew)?;
        if !audiences.unwrap_or(&known.audiences).allow(&token) {
            return Err(JwtError::AudienceNotAllowed.into());
        }
        if known.subjects.as_ref().is_some_and(|subjects| !subjects.matches(&token.subject)) {
            return Err(JwtError::SubjectNotAllowed.into());
        }
        if known.lifetime.is_some_and(|lifetime| !in_time(lifetime, token.expires, self.now.wall)) {
            return Err(JwtError::LifetimeNotAllowed.into());
        }
        self.verify_by(place, &token)?;
        Ok(self.use_token(known, &token, found)?)
    }

    /// Verifies `token` with the keys of the provider at `place`.
    fn verify_by(&self, place: usize, token: &Token<'_>) -> Result<(), Stop> {
        let source = match self.keys.get(place).ok_or(JwtError::NoValidKeys)? {
            Keys::Here(keys) => return Ok(keys.verify(token)?),
            Keys::Remote(handle) => handle.source(),
        };
        // What was just fetched is good for this request however short its life is.
        let now = (!self.tried.fetched.contains(&place)).then_some(self.now.monotonic);
        match source.look(now, |keys| keys.verify(token)) {
            Some(verdict) => Ok(verdict?),
            None if self.tried.failed.contains(&place) => Err(JwtError::Fetch.into()),
            None => Err(Stop::Lacking(place)),
        }
    }

    /// The provider of an issuer: the first that names it, else the first that names none.
    fn of_issuer(&self, issuer: &str) -> Option<usize> {
        let place = |issuer: &str| self.settings.providers.iter().position(|it| *it.issuer == *issuer);
        place(issuer).or_else(|| place(""))
    }

    fn use_token(
        &mut self,
        provider: &JwtProvider,
        token: &Token<'_>,
        found: &Extracted<'_>,
    ) -> Result<(), JwtError> {
        let wants_payload = self.notes && provider.payload_in_metadata.is_some();
        let claims = if wants_payload || !provider.claims.is_empty() {
            token.payload().ok_or(JwtError::PayloadJson)?
        } else {
            Claims::new()
        };
        if let Some(name) = &provider.payload_header {
            let mut text = token.encoded_payload().to_vec();
            while provider.pad_payload && !text.len().is_multiple_of(4) {
                text.push(b'=');
            }
            self.parts.headers.extend(HeaderValue::from_bytes(&text).ok().map(|value| (name.clone(), value)));
        }
        let mut changed = false;
        for claim in &provider.claims {
            let value = claim_text(&claims, &claim.claim);
            let value = value.and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok());
            if let Some(value) = value {
                self.parts.headers.append(claim.header.clone(), value);
                changed = true;
            }
        }
        if !provider.forward {
            found.remove(self.parts);
        }
        if let (Some(key), true) = (&provider.header_in_metadata, self.notes) {
            let header = token.header().ok_or(JwtError::HeaderJson)?;
            self.found.notes.push((key.clone(), MetadataValue::Map(header)));
        }
        if let (Some(key), true) = (&provider.payload_in_metadata, self.notes) {
            self.found.notes.push((key.clone(), MetadataValue::Map(normalized(claims, provider))));
        }
        if provider.clear_route_cache && (changed || provider.payload_in_metadata.is_some()) {
            self.found.clear_route = true;
        }
        Ok(())
    }

    /// `failed_status_in_metadata`; of no provider: of the only one.
    fn note_failure(&mut self, provider: Option<&JwtProvider>, error: JwtError) {
        let only = || match &*self.settings.providers {
            [only] => Some(only),
            _ => None,
        };
        let key = provider.or_else(only).and_then(|provider| provider.failed_status_in_metadata.as_ref());
        if let Some(key) = key.filter(|_| self.notes) {
            let status = [
                (Arc::from("code"), MetadataValue::Number(f64::from(error.code()))),
                (Arc::from("message"), MetadataValue::Text(error.to_string().into())),
            ];
            self.found.notes.push((key.clone(), MetadataValue::Map(status.into())));
        }
    }
}

fn in_time(lifetime: JwtLifetime, expires: Option<u64>, now: u64) -> bool {
    match (lifetime, expires) {
        (_, None) => false,
        (JwtLifetime::Finite, Some(_)) => true,
        (JwtLifetime::Below(limit), Some(expires)) => {
            Duration::from_secs(expires.saturating_sub(now)) < limit || expires < now
        }
    }
}

/// The claims, those with words as lists of them.
fn normalized(mut claims: Claims, provider: &JwtProvider) -> Claims {
    for name in &provider.space_delimited {
        if let Some(value) = claims.get_mut(&**name)
            && let MetadataValue::Text(text) = value
        {
            let words = text.split(' ').filter(|word| !word.is_empty());
            *value = MetadataValue::List(words.map(|word| MetadataValue::Text(word.into())).collect());
        }
    }
    claims
}

/// A claim as a header has it; `None` when it is not there, or empty, or `null`.
fn claim_text(claims: &Claims, path: &[Box<str>]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let value = rest.iter().try_fold(claims.get(&**first)?, |value, name| match value {
        MetadataValue::Map(members) => members.get(&**name),
        _ => None,
    })?;
    let text = match value {
        MetadataValue::Null => return None,
        MetadataValue::Bool(value) => value.to_string(),
        MetadataValue::Text(text) => text.to_string(),
        MetadataValue::Number(number) => {
            let whole = *number >= 0.0 && *number < u64::MAX as f64 && number.fract() == 0.0;
            if whole { (*number as u64).to_string() } else { format!("{number:.6}") }
        }
        MetadataValue::List(_) | MetadataValue::Map(_) => {
            let mut json = Vec::new();
            value.write_json(&mut json);
            STANDARD.encode(json)
        }
    };
    (!text.is_empty()).then_some(text)
}
