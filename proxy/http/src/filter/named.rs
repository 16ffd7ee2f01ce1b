//! Values by names that requests bring.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// As many names are known at most: who sends requests must not be able to make this grow.
const MOST: usize = 1024;

/// Values by name, made at a name's first use. A look-up takes no lock.
#[derive(Debug)]
pub(super) struct Named<T>(ArcSwap<HashMap<Box<str>, Arc<T>>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(ArcSwap::default())
    }
}

impl<T> Named<T> {
    /// The value of `name`; `None` when there are too many names already.
    pub(super) fn get(&self, name: &str, make: impl FnOnce() -> T) -> Option<Arc<T>> {
        if let Some(found) = self.0.load().get(name) {
            return Some(found.clone());
        }
        (self.0.load().len() < MOST).then(|| self.make(name, make))
    }

    /// The value of `name`, of which there are as many as the configuration has.
    pub(super) fn any(&self, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(found) = self.0.load().get(name) {
            return found.clone();
        }
        self.make(name, make)
    }

    fn make(&self, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let made = Arc::new(make());
        // Two threads may make one at the same time: stats of the same name are the same stats.
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(name.into(), made.clone());
            known
        });
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_once_and_there_is_an_end_to_them() {
        let named = Named::default();
        for i in 0..MOST {
            assert_eq!(named.get(&i.to_string(), || i).as_deref(), Some(&i));
        }
        assert_eq!(named.get("7", || 0).as_deref(), Some(&7));
        assert_eq!(named.get("one more", || 0), None);
    }
}
