//! Where in a configuration something is: a path of field names, indices and map keys.

use std::fmt;

/// A path into a message, kept as a linked list on the caller's stack: extending it costs no allocation, and the
/// text is made only when an error needs it.
///
/// ```
/// use outrider_proto::path::Path;
/// let root = Path::root();
/// let listeners = root.field("static_resources");
/// let listener = listeners.field("listeners");
/// assert_eq!(listener.index(0).to_string(), "static_resources.listeners[0]");
/// ```
///
/// The content of an `Any` continues the path of the field that holds it; the message type is no segment.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    seg: Seg<'a>,
}

/// One step of a [`Path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seg<'a> {
    /// The start; the text, if any, names the resource that the path is relative to.
    Root(&'a str),
    /// A field, by its proto name.
    Field(&'a str),
    /// An element of a repeated field.
    Index(usize),
    /// An entry of a map field.
    Key(&'a str),
}

impl Path<'static> {
    /// The empty path.
    pub const fn root() -> Self {
        Self { parent: None, seg: Seg::Root("") }
    }
}

impl<'a> Path<'a> {
    /// A path that starts with a text of its own, such as the name of an xDS resource.
    pub const fn named(name: &'a str) -> Self {
        Self { parent: None, seg: Seg::Root(name) }
    }

    /// The path of a field of this message.
    pub const fn field<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), seg: Seg::Field(name) }
    }

    /// The path of an element of this repeated field.
    pub const fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), seg: Seg::Index(index) }
    }

    /// The path of an entry of this map field.
    pub const fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), seg: Seg::Key(key) }
    }

    /// The last step.
    pub const fn last(&self) -> Seg<'a> {
        self.seg
    }

    /// The steps from the root to here.
    pub fn segments(&self) -> Vec<Seg<'a>> {
        let mut segments = Vec::new();
        let mut at: Option<&Path<'a>> = Some(self);
        while let Some(path) = at {
            segments.push(path.seg);
            at = path.parent;
        }
        segments.reverse();
        segments
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut empty = true;
        for seg in self.segments() {
            match seg {
                Seg::Root("") => continue,
                Seg::Root(name) => f.write_str(name)?,
                Seg::Field(name) if empty => f.write_str(name)?,
                Seg::Field(name) => write!(f, ".{name}")?,
                Seg::Index(index) => write!(f, "[{index}]")?,
                Seg::Key(key) => write!(f, "[{key:?}]")?,
            }
            empty = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_users_write_it() {
        let root = Path::root();
        let routes = root.field("virtual_hosts");
        let host = routes.index(3);
        let config = host.field("typed_per_filter_config");
        let cors = config.key("envoy.filters.http.cors");
        let path = cors.field("enabled");
        assert_eq!(
            path.to_string(),
            r#"virtual_hosts[3].typed_per_filter_config["envoy.filters.http.cors"].enabled"#
        );
        assert_eq!(Path::root().to_string(), "");
        assert_eq!(Path::named("cluster a").field("name").to_string(), "cluster a.name");
    }
}
