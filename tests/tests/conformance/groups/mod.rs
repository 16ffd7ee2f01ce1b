//! The groups of cases.

mod routing;

use crate::driver::Group;

/// All groups.
pub fn all() -> Vec<Group> {
    vec![routing::paths(), routing::headers(), routing::hosts()]
}
