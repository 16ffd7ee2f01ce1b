//! What one identity may take of what all share: open streams, and scopes, each of which is worked out anew with each change. One workload
//! that opens streams without end, or makes up what it depends on, must not keep the others out.
//!
//! Workloads are counted by their certificates. A token is good for all proxies (the one that the first start makes is every proxy's), so whoever
//! has one is bounded by what all may have together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::Status;

use crate::api::auth::{How, Identity, Role};
use crate::translate::Scope;

/// Scopes of one identity at a time: its namespace is one, each different list of dependencies and each Gateway another.
pub(super) const SCOPES: usize = 64;

/// What each identity has taken; nothing is kept of those that have nothing.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: Mutex<HashMap<Arc<str>, Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    streams: usize,
    /// With how many streams each has.
    scopes: HashMap<Scope, usize>,
}

/// A stream's place. It is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    places: Arc<Places>,
    /// `None`: somebody who is not counted.
    who: Option<Arc<str>>,
    scope: Option<Scope>,
}

impl Places {
    /// A place for one more stream of somebody who may have `most`.
    pub(super) fn take(self: &Arc<Self>, who: &Identity, most: usize) -> Result<Seat, Status> {
        let counted = who.how == How::Certificate && who.role == Role::Proxy;
        let who = counted.then(|| Arc::clone(&who.name));
        if let Some(name) = &who {
            let mut all = self.lock();
            let taken = all.entry(Arc::clone(name)).or_default();
            if taken.streams >= most {
                return Err(Status::resource_exhausted(format!(
                    "{name} has {most} streams open, the most allowed for one identity"
                )));
            }
            taken.streams += 1;
        }
        Ok(Seat { places: Arc::clone(self), who, scope: None })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Goes into a scope, out of the one before.
    pub(super) fn enter(&mut self, scope: &Scope) -> Result<(), Status> {
        let Some(name) = self.who.as_ref().filter(|_| self.scope.as_ref() != Some(scope)) else {
            return Ok(());
        };
        let mut all = self.places.lock();
        let taken = all.entry(Arc::clone(name)).or_default();
        if let Some(old) = self.scope.take() {
            taken.leave(&old);
        }
        if taken.scopes.len() >= SCOPES && !taken.scopes.contains_key(scope) {
            return Err(Status::resource_exhausted(format!(
                "proxies of {name} are connected in {SCOPES} scopes (Gateways, declared dependencies, labels that policies select by), \
                 the most allowed for one identity"
            )));
        }
        *taken.scopes.entry(scope.clone()).or_default() += 1;
        self.scope = Some(scope.clone());
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(name) = &self.who else { return };
        let mut all = self.places.lock();
        let Some(taken) = all.get_mut(name) else { return };
        if let Some(scope) = &self.scope {
            taken.leave(scope);
        }
        taken.streams = taken.streams.saturating_sub(1);
        if taken.streams == 0 {
            all.remove(name);
        }
    }
}

impl Taken {
    fn leave(&mut self, scope: &Scope) {
        if let Some(streams) = self.scopes.get_mut(scope) {
            *streams = streams.saturating_sub(1);
            if *streams == 0 {
                self.scopes.remove(scope);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::auth::Lease;
    use crate::translate::testing::{WEB, context, sidecar};

    fn who(name: &str, how: How) -> Identity {
        Identity { name: name.into(), role: Role::Proxy, how, peer: None, lease: Lease::default() }
    }

    #[test]
    fn one_identity_keeps_no_other_out() {
        let places = Arc::new(Places::default());
        let (web, cart) = (who("spiffe://d/ns/shop/sa/web", How::Certificate), who("cart", How::Certificate));
        let held: Vec<_> = (0..2).map(|_| places.take(&web, 2).unwrap()).collect();
        let error = places.take(&web, 2).unwrap_err();
        assert_eq!(error.code(), tonic::Code::ResourceExhausted);
        assert!(error.message().contains("spiffe://d/ns/shop/sa/web"), "{error}");
        assert!(places.take(&cart, 2).is_ok());
        let token = who("proxy", How::Token);
        let all: Vec<_> = (0..5).map(|_| places.take(&token, 2).unwrap()).collect();
        drop((held, all));
        assert!(places.take(&web, 2).is_ok());
        assert!(places.lock().is_empty(), "what is given back is forgotten");
    }

    #[test]
    fn scopes_of_one_identity_have_an_end() {
        let places = Arc::new(Places::default());
        let web = who("web", How::Certificate);
        let scope = |index: usize| {
            let namespace = format!("ns-{index}").as_str().into();
            Scope { namespace, ..Scope::of(&context(WEB).world, &sidecar()) }
        };
        let mut seats: Vec<_> = (0..=SCOPES).map(|_| places.take(&web, 1000).unwrap()).collect();
        let mut last = seats.pop().unwrap();
        for (index, seat) in seats.iter_mut().enumerate() {
            seat.enter(&scope(index)).unwrap();
        }
        assert_eq!(last.enter(&scope(SCOPES)).unwrap_err().code(), tonic::Code::ResourceExhausted);
        // One that is there is no further one, and one that is left is free.
        last.enter(&scope(0)).unwrap();
        seats[1].enter(&scope(0)).unwrap();
        last.enter(&scope(SCOPES)).unwrap();
        drop((seats, last));
        assert!(places.lock().is_empty());
    }
}
