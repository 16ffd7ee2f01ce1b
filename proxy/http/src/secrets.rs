//! Secrets that filters give to requests: each has a place, which requests look at and the control thread fills.
//!
//! Requests take no lock: what is in force is behind an `ArcSwap`, as the header value that it is. A place that is still
//! empty, or whose secret cannot be a header value, has none, and its filter decides what that means.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::HeaderValue;
use outrider_config::model::{DataSource, DynamicSecret, Secret, SecretKind, SecretRef};
use tokio::sync::watch;

use crate::routing::{DirectBodyError, direct};

/// The place of a secret.
pub struct SecretSlot {
    wanted: Option<Arc<DynamicSecret>>,
    /// What stands in front of it in a header; `None`: it does not go into one.
    prefix: Option<Box<str>>,
    held: ArcSwapOption<Held>,
    changes: watch::Sender<()>,
}

struct Held {
    text: Bytes,
    value: Option<HeaderValue>,
}

/// A secret cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Its file or variable cannot be read.
    #[error(transparent)]
    Source(#[from] DirectBodyError),
    /// It is of another kind.
    #[error("secret {0:?} is not a generic secret, which is what the filter needs")]
    Kind(Arc<str>),
}

/// Whether a secret that came can be read, if it is a generic one. Control thread.
///
/// # Errors
/// Its file or variable cannot be read.
pub fn check(secret: &Secret) -> Result<(), DirectBodyError> {
    match &secret.kind {
        SecretKind::Generic(source) => direct::read(source).map(drop),
        SecretKind::Certificate(_) | SecretKind::Validation(_) | SecretKind::TicketKeys(_) => Ok(()),
    }
}

impl SecretSlot {
    /// The place of `secret`, which goes into a header behind `prefix`, or into none. Control thread.
    ///
    /// # Errors
    /// It is here, and its file or variable cannot be read.
    pub(crate) fn new(
        secret: &SecretRef<DataSource>,
        prefix: Option<&str>,
    ) -> Result<Arc<Self>, DirectBodyError> {
        let slot = Self {
            wanted: secret.dynamic().cloned(),
            prefix: prefix.map(Box::from),
            held: ArcSwapOption::empty(),
            changes: watch::Sender::new(()),
        };
        if let Some(source) = secret.here() {
            slot.put(source)?;
        }
        Ok(Arc::new(slot))
    }

    /// The secret that is to fill it; `None` where it was here from the beginning.
    pub const fn wanted(&self) -> Option<&Arc<DynamicSecret>> {
        self.wanted.as_ref()
    }

    /// Takes the secret that came; where it cannot be taken, what was in force stays. Control thread.
    ///
    /// # Errors
    /// It cannot be read, or is of another kind.
    pub fn fill(&self, secret: &Secret) -> Result<(), SlotError> {
        match &secret.kind {
            SecretKind::Generic(source) => Ok(self.put(source)?),
            SecretKind::Certificate(_) | SecretKind::Validation(_) | SecretKind::TicketKeys(_) => {
                Err(SlotError::Kind(secret.name.clone()))
            }
        }
    }

    /// The header's value; `None` while there is none.
    pub(crate) fn value(&self) -> Option<HeaderValue> {
        self.held.load().as_deref()?.value.clone()
    }

    /// The secret as it came; `None` while there is none, or an empty one.
    pub(crate) fn text(&self) -> Option<Bytes> {
        self.held.load().as_deref().map(|held| held.text.clone()).filter(|text| !text.is_empty())
    }

    /// Tells of changes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn put(&self, source: &DataSource) -> Result<(), DirectBodyError> {
        let text = direct::read(source)?;
        let value = self.prefix.as_deref().and_then(|prefix| header_value(prefix, &text));
        if value.is_none() && self.prefix.is_some() {
            tracing::warn!(
                field = &*source.field,
                "the secret is empty or cannot be a header value: no request gets it"
            );
        }
        self.held.store(Some(Arc::new(Held { text, value })));
        self.changes.send_replace(());
        Ok(())
    }
}

impl std::fmt::Debug for SecretSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretSlot").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

/// A credential behind its prefix. Files often end with the end of a line, which no header value may.
pub(crate) fn header_value(prefix: &str, text: &[u8]) -> Option<HeaderValue> {
    let last = text.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let mut value = HeaderValue::from_bytes(&[prefix.as_bytes(), text.get(..=last)?].concat()).ok()?;
    // So it is in no debug output, and in no table of HPACK.
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use outrider_config::model::{ConfigSource, DataSourceKind};

    use super::*;

    fn inline(text: &str) -> DataSource {
        DataSource { kind: DataSourceKind::Inline(Arc::from(text.as_bytes())), field: Arc::from("secret") }
    }

    fn secret(kind: SecretKind) -> Secret {
        Secret { name: Arc::from("s"), kind, watched: None }
    }

    fn shown(slot: &SecretSlot) -> Option<String> {
        slot.value().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    #[test]
    fn the_end_of_a_line_does_not_go_along_and_what_is_no_value_is_none() {
        let value = |text: &str| header_value("Bearer ", text.as_bytes());
        assert_eq!(value("abc\r\n\n").expect("a value"), "Bearer abc");
        assert_eq!(value("a b ").expect("a value"), "Bearer a b ");
        for none in ["", "\n", "a\nb", "a\0"] {
            assert_eq!(value(none), None, "{none:?}");
        }
        assert!(!format!("{:?}", value("abc")).contains("abc"), "nobody reads it in a log");
    }

    #[test]
    fn a_place_is_filled_when_its_secret_comes_and_again_when_it_changes() {
        let source = ConfigSource::default();
        let wanted = Arc::new(DynamicSecret { name: Arc::from("s"), source });
        let slot = SecretSlot::new(&SecretRef::Dynamic(wanted), Some("")).expect("nothing to read yet");
        assert_eq!(shown(&slot), None);
        for next in ["one", "two"] {
            slot.fill(&secret(SecretKind::Generic(inline(next)))).expect("it is good");
            assert_eq!(shown(&slot).as_deref(), Some(next));
        }
        let error = slot.fill(&secret(SecretKind::TicketKeys(Vec::new()))).expect_err("of another kind");
        assert!(error.to_string().contains("\"s\" is not a generic secret"), "{error}");
        let file = DataSource {
            kind: DataSourceKind::File(Arc::from("/nonexistent/secret")),
            field: Arc::from("secret"),
        };
        slot.fill(&secret(SecretKind::Generic(file))).expect_err("it is not there");
        assert_eq!(shown(&slot).as_deref(), Some("two"), "what was in force stays");
    }

    #[test]
    fn a_secret_that_is_here_is_there_at_once() {
        let slot = SecretSlot::new(&SecretRef::Static(inline("abc")), Some("Basic ")).expect("it is good");
        assert_eq!(shown(&slot).as_deref(), Some("Basic abc"));
        assert!(slot.wanted().is_none());
        let bare = SecretSlot::new(&SecretRef::Static(inline("a\nb")), None).expect("it is good");
        assert_eq!((bare.value(), bare.text().as_deref()), (None, Some(&b"a\nb"[..])));
        let empty = SecretSlot::new(&SecretRef::Static(inline("")), None).expect("it can be read");
        assert_eq!(empty.text(), None, "an empty one is none");
    }
}
