//! What is kept of a request for the day on which the policies that let it through change while it runs.

use std::cell::RefCell;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_core::matcher::HeadView;

use super::{Abort, End, Stream};

/// As many buffers of heads that are gone wait on a worker for the next ones, none of them with more room than this.
const SPARE: usize = 64;
const ROOM: usize = 2048;
/// What a buffer begins with: most heads have less.
const FIRST_ROOM: usize = 512;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// How far a request came past the policies of its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// They have not let it through yet.
    NotYet,
    /// The same, and they have changed since it came: those that are in force now are to be asked too.
    Late,
    /// They have.
    Through,
    /// It has its answer from the proxy: there is nothing to refuse.
    Answered,
}

/// A request's head as policies saw it: what filters and the router make of it afterwards is another matter. It is in one
/// piece: a map of headers takes several times as much, and holds on to the buffer that it was read into. Each text stands
/// behind its length: the method, the path, then names and values of headers in turn.
#[derive(Debug)]
pub(super) struct PassedHead(Vec<u8>);

impl PassedHead {
    fn of(parts: &Parts) -> Self {
        let buffer = BUFFERS.try_with(|buffers| buffers.borrow_mut().pop()).ok().flatten();
        let mut texts = buffer.unwrap_or_else(|| Vec::with_capacity(FIRST_ROOM));
        push(&mut texts, parts.method.as_str().as_bytes());
        let path = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        push(&mut texts, path.as_bytes());
        for (name, value) in &parts.headers {
            push(&mut texts, name.as_str().as_bytes());
            push(&mut texts, value.as_bytes());
        }
        Self(texts)
    }

    /// The method, the path and the headers.
    fn read(&self) -> (&str, &str, HeaderMap) {
        let mut texts = Texts(&self.0);
        let mut text = || texts.next().and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
        let (method, path) = (text(), text());
        let mut headers = HeaderMap::new();
        while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
            // They were a name and a value before.
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        (method, path, headers)
    }
}

impl Drop for PassedHead {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if buffer.capacity() > ROOM {
            return;
        }
        buffer.clear();
        let _ = BUFFERS.try_with(|buffers| {
            let mut buffers = buffers.borrow_mut();
            if buffers.len() < SPARE {
                buffers.push(buffer);
            }
        });
    }
}

fn push(texts: &mut Vec<u8>, text: &[u8]) {
    // Heads have a limit far below.
    let length = u32::try_from(text.len()).unwrap_or(0);
    texts.extend_from_slice(&length.to_ne_bytes());
    texts.extend_from_slice(text.get(..length as usize).unwrap_or_default());
}

/// The texts of a [`PassedHead`].
struct Texts<'a>(&'a [u8]);

impl<'a> Iterator for Texts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (text, rest) = rest.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
        self.0 = rest;
        Some(text)
    }
}

impl Stream {
    /// Keeps the head as it is before the first policy, unless it is kept already.
    pub(crate) fn keep_for_policies(&self, parts: &Parts) {
        let mut head = self.passed_head.borrow_mut();
        if head.is_none() {
            *head = Some(PassedHead::of(parts));
        }
    }

    /// All policies let the request through; true when those in force are others by now.
    pub(crate) fn pass_policies(&self) -> bool {
        self.passed.replace(Passed::Through) == Passed::Late
    }

    /// The proxy answers it: no policy has a say any more.
    pub(crate) fn answered_by_proxy(&self) {
        self.passed.set(Passed::Answered);
        drop(self.passed_head.take());
    }

    /// Nothing is to be kept any more.
    pub(super) fn forget_passed_head(&self) {
        drop(self.passed_head.take());
    }

    /// Whether policies that have changed are to be asked now. A request that is on its way through them asks by itself
    /// when it is behind them.
    pub(crate) fn is_under_review(&self) -> bool {
        if self.abort.get().is_some() || self.cut_short.get() || self.end.get() != End::Open {
            return false;
        }
        match self.passed.get() {
            Passed::Answered => false,
            Passed::NotYet | Passed::Late if self.hcm.shared.has_filters => {
                self.passed.set(Passed::Late);
                false
            }
            Passed::NotYet | Passed::Late | Passed::Through => true,
        }
    }

    /// Calls `f` with the head as policies saw it; `None` where there were none.
    pub(crate) fn with_passed_head<T>(&self, f: impl FnOnce(Option<HeadView<'_>>) -> T) -> T {
        let kept = self.passed_head.borrow();
        let Some(kept) = kept.as_ref() else { return f(None) };
        let (method, path, headers) = kept.read();
        f(Some(HeadView {
            headers: &headers,
            method,
            authority: headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
            path,
            scheme: self.scheme.get().as_str(),
            status: "",
            protocol: "",
        }))
    }

    /// Ends it: a policy that changed refuses it, for the reason that `details` names. Where nothing was sent yet the
    /// client gets the refusal, else the stream is reset, or an HTTP/1 connection closed.
    pub(crate) fn refuse(&self, details: String) {
        let begun = self.info.borrow().timings.first_downstream_tx.is_some();
        self.end_early(Abort::Refused, outrider_core::ResponseFlags::NONE, details);
        if begun && !self.conn.is_h2() {
            self.conn.local_close.set(true);
            // A client that takes nothing would not let the response's body learn of it.
            if !self.tunnel.get() {
                self.conn.cut();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(path: &str, headers: &[(String, Vec<u8>)]) -> Parts {
        let mut request = http::Request::builder().method("PUT").uri(path).body(()).expect("a request");
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            request.headers_mut().append(name, HeaderValue::from_bytes(value).expect("a value"));
        }
        request.into_parts().0
    }

    proptest! {
        #[test]
        fn a_head_comes_back_as_it_was(
            path in "/[a-z/?=&]{0,40}",
            headers in prop::collection::vec(("[a-d]{1,2}", prop::collection::vec(0x20..=0xff_u8, 0..40)), 0..20),
        ) {
            let headers: Vec<(String, Vec<u8>)> = headers
                .into_iter()
                .map(|(name, value)| (name, value.into_iter().filter(|byte| *byte != 0x7f).collect()))
                .collect();
            let parts = request(&path, &headers);
            // The second time in the buffer of the first.
            for _ in 0..2 {
                let kept = PassedHead::of(&parts);
                let (method, path, headers) = kept.read();
                prop_assert_eq!(method, "PUT");
                prop_assert_eq!(Some(path), parts.uri.path_and_query().map(|path| path.as_str()));
                prop_assert_eq!(&headers, &parts.headers);
            }
        }
    }

    #[test]
    fn buffers_are_used_again_and_there_is_an_end_to_them() {
        BUFFERS.with_borrow_mut(Vec::clear);
        let spare = || BUFFERS.with_borrow(Vec::len);
        let small = request("/", &[]);
        drop(PassedHead::of(&small));
        assert_eq!(spare(), 1);
        let kept = PassedHead::of(&small);
        assert_eq!(spare(), 0);
        drop(kept);
        // One that grew too large is not kept.
        drop(PassedHead::of(&request("/", &[("a".into(), vec![b'x'; 2 * ROOM])])));
        assert_eq!(spare(), 0);
        let many: Vec<_> = (0..2 * SPARE).map(|_| PassedHead::of(&small)).collect();
        drop(many);
        assert_eq!(spare(), SPARE);
    }
}
