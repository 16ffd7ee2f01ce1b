//! A request's route, which filters may have looked for anew.

use std::rc::Rc;

use http::request::Parts;

use super::serve;
use crate::routing::Selected;
use crate::stream::Stream;

/// The route of a request.
#[derive(Debug, Default)]
pub(crate) struct Routing {
    selected: Option<Selected>,
    /// The head changed: the route is to be looked for again.
    stale: bool,
}

impl Routing {
    /// Takes the first route that was found.
    pub(crate) fn set(&mut self, selected: Option<Selected>) {
        self.selected = selected;
    }

    /// The next one who asks gets the route for the head as it is then (Envoy: `clearRouteCache`).
    pub(crate) const fn clear(&mut self) {
        self.stale = true;
    }

    /// The route; `None` for none.
    pub(crate) fn selected(&mut self, stream: &Rc<Stream>, parts: &Parts) -> Option<&Selected> {
        if std::mem::take(&mut self.stale) {
            self.selected = serve::find_route(stream, parts);
        }
        self.selected.as_ref()
    }

    /// The route as it was last found.
    pub(crate) const fn known(&self) -> Option<&Selected> {
        self.selected.as_ref()
    }
}
