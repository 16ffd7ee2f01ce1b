//! `xds.type.matcher.v3.Matcher`, compiled: trees of conditions with actions at their leaves.
//!
//! Semantics follow Envoy's matching API: of a list the first entry decides whose predicate matches and whose action, or
//! nested tree, gives a result; of a map the entry of the value, of prefixes the longest that gives a result; where nothing
//! does, `on_no_match` is asked.

mod prefixes;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::cel::Program;
use crate::matcher::{HeadView, HeaderRef, StringMatcher};
use crate::metadata_matcher::{MetadataMatcher, ValueMatcher};
use crate::rbac::Facts;

pub use prefixes::Prefixes;

/// A tree whose leaves are `T`.
#[derive(Debug, Clone)]
pub struct Tree<T> {
    /// What is asked.
    pub branches: Branches<T>,
    /// What becomes of that for which they give nothing.
    pub otherwise: Option<Box<OnMatch<T>>>,
}

/// What a tree asks.
#[derive(Debug, Clone)]
pub enum Branches<T> {
    /// Nothing.
    None,
    /// One after the other.
    List(Box<[(Predicate, OnMatch<T>)]>),
    /// The entry of the input's value.
    Exact(Input, HashMap<Box<str>, OnMatch<T>>),
    /// The longest entries first that the input's value begins with.
    Prefix(Input, Prefixes<OnMatch<T>>),
}

/// What becomes of what matches.
#[derive(Debug, Clone)]
pub struct OnMatch<T> {
    /// Its result.
    pub then: Then<T>,
    /// It is not taken; the next ones are asked.
    pub keep_matching: bool,
}

/// A leaf, or a tree.
#[derive(Debug, Clone)]
pub enum Then<T> {
    /// A leaf.
    Action(T),
    /// A tree.
    Tree(Box<Tree<T>>),
}

/// A condition.
#[derive(Debug, Clone)]
pub enum Predicate {
    /// An input's value.
    Single(Input, InputMatcher),
    /// One of these.
    OneOf(Box<[Predicate]>),
    /// All of these.
    All(Box<[Predicate]>),
    /// Not this.
    Not(Box<Predicate>),
}

/// What a value is asked for.
#[derive(Debug, Clone)]
pub enum InputMatcher {
    /// Text. What is not there never matches.
    Text(StringMatcher),
    /// An address in one of these.
    Ip(Box<[IpNet]>),
    /// A value of metadata, turned round or not.
    Value(ValueMatcher, bool),
    /// Whether an expression is true of all attributes.
    Expression(Program),
}

/// Where a value comes from.
#[derive(Debug, Clone)]
pub enum Input {
    /// A header of the request; several of a name are joined by commas.
    Header(HeaderRef),
    /// The first parameter of that name in the query.
    Query(Box<str>),
    /// The connection's local address.
    DestinationIp,
    /// Its port.
    DestinationPort,
    /// The client's address.
    SourceIp,
    /// Its port.
    SourcePort,
    /// The client's address on the socket.
    DirectSourceIp,
    /// The server name that the client asked for.
    ServerName,
    /// The URI names of the client's certificate, joined by commas.
    UriSan,
    /// Its DNS names, in the same way.
    DnsSan,
    /// Its subject.
    Subject,
    /// An object that no filter leaves.
    Absent,
    /// A value of dynamic metadata.
    Metadata(Box<MetadataMatcher>),
    /// All attributes, for an expression.
    Attributes,
}

impl<T> Tree<T> {
    /// The leaf for `facts`.
    pub fn find(&self, facts: &Facts<'_>) -> Option<&T> {
        let found = match &self.branches {
            Branches::None => None,
            Branches::List(list) => {
                let mut hits = list.iter().filter(|(predicate, _)| predicate.matches(facts));
                hits.find_map(|(_, then)| then.find(facts))
            }
            Branches::Exact(input, map) => {
                let mut room = Text::new();
                let value = input.value(facts, &mut room);
                value.and_then(|value| map.get(&*value)).and_then(|then| then.find(facts))
            }
            Branches::Prefix(input, map) => {
                let mut room = Text::new();
                let value = input.value(facts, &mut room);
                value.and_then(|value| map.find(&value, |then| then.find(facts)))
            }
        };
        found.or_else(|| self.otherwise.as_ref()?.find(facts))
    }

    /// Whether it asks for anything of a request's head.
    pub fn reads_head(&self) -> bool {
        let asks = match &self.branches {
            Branches::None => false,
            Branches::List(list) => {
                list.iter().any(|(predicate, then)| predicate.reads_head() || then.reads_head())
            }
            Branches::Exact(input, map) => input.reads_head() || map.values().any(OnMatch::reads_head),
            Branches::Prefix(input, map) => input.reads_head() || map.values().any(OnMatch::reads_head),
        };
        asks || self.otherwise.as_ref().is_some_and(|then| then.reads_head())
    }

    /// Calls `f` with each leaf.
    pub fn each(&self, f: &mut impl FnMut(&T)) {
        match &self.branches {
            Branches::None => {}
            Branches::List(list) => list.iter().for_each(|(_, then)| then.each(f)),
            Branches::Exact(_, map) => map.values().for_each(|then| then.each(f)),
            Branches::Prefix(_, map) => map.values().for_each(|then| then.each(f)),
        }
        if let Some(otherwise) = &self.otherwise {
            otherwise.each(f);
        }
    }
}

impl<T> OnMatch<T> {
    fn find(&self, facts: &Facts<'_>) -> Option<&T> {
        let found = match &self.then {
            Then::Action(leaf) => Some(leaf),
            Then::Tree(tree) => tree.find(facts),
        };
        found.filter(|_| !self.keep_matching)
    }

    fn reads_head(&self) -> bool {
        match &self.then {
            Then::Action(_) => false,
            Then::Tree(tree) => tree.reads_head(),
        }
    }

    fn each(&self, f: &mut impl FnMut(&T)) {
        match &self.then {
            Then::Action(leaf) => f(leaf),
            Then::Tree(tree) => tree.each(f),
        }
    }
}

impl Predicate {
    fn reads_head(&self) -> bool {
        match self {
            Self::Single(input, _) => input.reads_head(),
            Self::OneOf(predicates) | Self::All(predicates) => predicates.iter().any(Self::reads_head),
            Self::Not(one) => one.reads_head(),
        }
    }

    /// Whether it holds for `facts`.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Single(Input::Metadata(at), InputMatcher::Value(matcher, invert)) => {
                let found = facts.stream.dynamic.as_deref().and_then(|metadata| at.find(metadata));
                matcher.matches(found) != *invert
            }
            Self::Single(input, InputMatcher::Text(matcher)) => {
                input.value(facts, &mut Text::new()).is_some_and(|value| matcher.matches(&value))
            }
            Self::Single(input, InputMatcher::Ip(nets)) => {
                let mut room = Text::new();
                let value = input.value(facts, &mut room);
                let address: Option<IpAddr> = value.and_then(|value| value.parse().ok());
                address.is_some_and(|address| nets.iter().any(|net| net.contains(&address)))
            }
            Self::Single(Input::Attributes, InputMatcher::Expression(program)) => {
                program.is_true(&facts.view())
            }
            Self::Single(_, InputMatcher::Value(..) | InputMatcher::Expression(_)) => false,
            Self::OneOf(any) => any.iter().any(|one| one.matches(facts)),
            Self::All(all) => all.iter().all(|one| one.matches(facts)),
            Self::Not(one) => !one.matches(facts),
        }
    }
}

/// Room for a number or an address as text.
struct Text([u8; 64]);

impl Text {
    const fn new() -> Self {
        Self([0; 64])
    }

    fn write(&mut self, value: impl std::fmt::Display) -> Option<Cow<'_, str>> {
        use std::io::Write as _;
        let mut rest = &mut self.0[..];
        // An IPv6 address has 45 bytes at most.
        write!(rest, "{value}").ok()?;
        let len = 64 - rest.len();
        std::str::from_utf8(self.0.get(..len)?).ok().map(Cow::Borrowed)
    }
}

impl Input {
    const fn reads_head(&self) -> bool {
        matches!(self, Self::Header(_) | Self::Query(_) | Self::Attributes)
    }

    /// The value; `None` for none. `room` holds what has to be written for it.
    fn value<'a>(&self, facts: &Facts<'a>, room: &'a mut Text) -> Option<Cow<'a, str>> {
        let certificate = || facts.conn.tls.as_ref()?.peer.as_deref();
        match self {
            Self::Header(name) => header(facts.head, name),
            Self::Query(name) => facts.query(name).map(Cow::Borrowed),
            Self::DestinationIp => room.write(facts.conn.local.ip()?.ip()),
            Self::DestinationPort => room.write(facts.conn.local.ip()?.port()),
            Self::SourceIp => room.write(facts.stream.remote().ip()?.ip()),
            Self::SourcePort => room.write(facts.stream.remote().ip()?.port()),
            Self::DirectSourceIp => room.write(facts.conn.direct_remote.ip()?.ip()),
            Self::ServerName => facts.conn.sni.as_deref().filter(|name| !name.is_empty()).map(Cow::Borrowed),
            Self::UriSan => joined(&certificate()?.uri_sans),
            Self::DnsSan => joined(&certificate()?.dns_sans),
            Self::Subject => {
                Some(&*certificate()?.subject).filter(|text| !text.is_empty()).map(Cow::Borrowed)
            }
            Self::Absent | Self::Metadata(_) | Self::Attributes => None,
        }
    }
}

/// A certificate rarely has more names of a kind than one.
fn joined(names: &[String]) -> Option<Cow<'_, str>> {
    match names {
        [] => None,
        [one] => Some(Cow::Borrowed(one)),
        many => Some(Cow::Owned(many.join(","))),
    }
}

fn header<'a>(head: HeadView<'a>, name: &HeaderRef) -> Option<Cow<'a, str>> {
    let pseudo = |text: &'a str| Some(text).filter(|text| !text.is_empty()).map(Cow::Borrowed);
    match name {
        HeaderRef::Method => pseudo(head.method),
        HeaderRef::Authority => pseudo(head.authority),
        HeaderRef::Path => pseudo(head.path),
        HeaderRef::Scheme => pseudo(head.scheme),
        HeaderRef::Status => pseudo(head.status),
        HeaderRef::Protocol => pseudo(head.protocol),
        HeaderRef::Name(name) => {
            let mut values = head.headers.get_all(name).iter();
            let first = String::from_utf8_lossy(values.next()?.as_bytes());
            let mut joined: Option<String> = None;
            for value in values {
                let joined = joined.get_or_insert_with(|| first.clone().into_owned());
                joined.push(',');
                joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
            }
            Some(joined.map_or(first, Cow::Owned))
        }
    }
}
