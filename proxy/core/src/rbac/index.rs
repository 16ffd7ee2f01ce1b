//! Which policies can match at all: most ask for somebody, or for a path, and need not be looked at for others.
//!
//! From each policy one condition is taken that it cannot match without and that asks for texts, or for how they begin: the
//! names of the client, the path, or a header. Policies are filed under these texts; those of which nothing of the kind can be said are
//! looked at always.

use std::collections::{BTreeMap, HashMap};

use regex_syntax::hir::literal::Extractor;

use super::{Condition, Facts, Policy};
use crate::matcher::{HeaderCheck, HeaderRef, StringMatch, StringMatcher};
use crate::san::SanKind;

/// As many texts one policy is filed under at most.
const MOST: usize = 64;
/// By so many headers policies are filed at most: each is looked up for each request.
const MOST_HEADERS: usize = 8;

/// Numbers of policies, in order.
type Numbers = Box<[u32]>;

/// Policies by what they need.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    names: Texts,
    paths: Texts,
    headers: Box<[(HeaderRef, Texts)]>,
    always: Numbers,
}

/// Policies by texts.
#[derive(Debug, Clone, Default)]
struct Texts {
    whole: HashMap<Box<str>, Numbers>,
    beginnings: Beginnings,
}

/// Policies by beginnings of texts, sorted.
#[derive(Debug, Clone, Default)]
struct Beginnings(Box<[Beginning]>);

#[derive(Debug, Clone)]
struct Beginning {
    text: Box<str>,
    /// The longest other one that this one begins with.
    shorter: Option<u32>,
    policies: Numbers,
}

/// What a condition needs: one of these.
#[derive(Debug)]
struct Need<'a> {
    of: Of<'a>,
    texts: Vec<Text>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of<'a> {
    Name,
    Path,
    Header(&'a HeaderRef),
}

#[derive(Debug, Clone)]
enum Text {
    Whole(Box<str>),
    Beginning(Box<str>),
}

impl Index {
    pub(super) fn new(policies: &[Policy]) -> Self {
        let [mut names, mut paths] = [Lists::default(), Lists::default()];
        let mut headers: Vec<(&HeaderRef, Lists)> = Vec::new();
        let mut always = Vec::new();
        for (number, policy) in (0_u32..).zip(policies) {
            let needs = [need(&policy.principal), need(&policy.permission)];
            let best = needs.into_iter().flatten().min_by_key(Need::cost);
            let lists = match best.as_ref().map(|best| best.of) {
                None => None,
                Some(Of::Name) => Some(&mut names),
                Some(Of::Path) => Some(&mut paths),
                Some(Of::Header(header)) => of_header(&mut headers, header),
            };
            match (best, lists) {
                (Some(best), Some(lists)) => lists.file(number, best.texts),
                _ => always.push(number),
            }
        }
        let headers = headers.into_iter().map(|(header, lists)| (header.clone(), lists.into()));
        Self { names: names.into(), paths: paths.into(), headers: headers.collect(), always: always.into() }
    }

    /// The first of the policies that `matches`, which is asked only for those that can.
    pub(super) fn find(&self, facts: &Facts<'_>, matches: impl Fn(u32) -> bool) -> Option<u32> {
        let mut best = None;
        let mut look = |numbers: &[u32]| {
            let before = |number: &&u32| best.is_none_or(|best| **number < best);
            if let Some(found) = numbers.iter().take_while(before).find(|number| matches(**number)) {
                best = Some(*found);
            }
        };
        if !self.names.is_empty() {
            facts.each_name(|name| self.names.each(name, &mut look));
        }
        if !self.paths.is_empty()
            && let Some(path) = facts.path()
        {
            self.paths.each(path, &mut look);
        }
        for (header, texts) in &self.headers {
            facts.head.each(header, |value| texts.each(value, &mut look));
        }
        look(&self.always);
        best
    }
}

#[derive(Debug, Default)]
struct Lists {
    whole: BTreeMap<Box<str>, Vec<u32>>,
    beginnings: BTreeMap<Box<str>, Vec<u32>>,
}

/// The lists of `header`; `None` where there are those of many others already.
fn of_header<'a, 'b>(
    headers: &'b mut Vec<(&'a HeaderRef, Lists)>,
    header: &'a HeaderRef,
) -> Option<&'b mut Lists> {
    let place = match headers.iter().position(|(known, _)| *known == header) {
        Some(place) => place,
        None if headers.len() < MOST_HEADERS => {
            headers.push((header, Lists::default()));
            headers.len() - 1
        }
        None => return None,
    };
    headers.get_mut(place).map(|(_, lists)| lists)
}

impl Lists {
    /// Files policy `number`, which comes after all before it, under `texts`.
    fn file(&mut self, number: u32, texts: Vec<Text>) {
        for text in texts {
            let list = match text {
                Text::Whole(text) => self.whole.entry(text).or_default(),
                Text::Beginning(text) => self.beginnings.entry(text).or_default(),
            };
            // Of a policy the same text may be asked for twice.
            if list.last() != Some(&number) {
                list.push(number);
            }
        }
    }
}

impl From<Lists> for Texts {
    fn from(lists: Lists) -> Self {
        let whole = lists.whole.into_iter().map(|(text, numbers)| (text, numbers.into()));
        Self { whole: whole.collect(), beginnings: Beginnings::new(lists.beginnings) }
    }
}

impl Texts {
    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.beginnings.0.is_empty()
    }

    /// Calls `look` with the policies that `text` is for.
    fn each(&self, text: &str, look: &mut impl FnMut(&[u32])) {
        if let Some(numbers) = self.whole.get(text) {
            look(numbers);
        }
        self.beginnings.each(text, look);
    }
}

impl Beginnings {
    fn new(lists: BTreeMap<Box<str>, Vec<u32>>) -> Self {
        let mut all: Vec<Beginning> = Vec::with_capacity(lists.len());
        for (text, numbers) in lists {
            let mut shorter = all.len().checked_sub(1).and_then(|last| u32::try_from(last).ok());
            while let Some(known) = shorter.and_then(|number| all.get(number as usize)) {
                if text.starts_with(&*known.text) {
                    break;
                }
                shorter = known.shorter;
            }
            all.push(Beginning { text, shorter, policies: numbers.into() });
        }
        Self(all.into())
    }

    /// What `text` begins with sorts before it, and what sorts between begins with the same: so all of it is found from
    /// the last one before `text` on, by ever shorter ones.
    fn each(&self, text: &str, look: &mut impl FnMut(&[u32])) {
        let behind = self.0.partition_point(|known| *known.text <= *text);
        let mut next = behind.checked_sub(1).and_then(|last| self.0.get(last));
        while let Some(known) = next {
            if text.starts_with(&*known.text) {
                look(&known.policies);
            }
            next = known.shorter.and_then(|number| self.0.get(number as usize));
        }
    }
}

impl Need<'_> {
    /// Of two needs the one is taken that fewer have.
    fn cost(&self) -> (usize, usize, usize) {
        let beginnings = self.texts.iter().map(|text| match text {
            Text::Whole(_) => 0,
            // A name or path that begins with little more than what all begin with tells nobody apart.
            Text::Beginning(text) if text.len() < 12 => 2,
            Text::Beginning(_) => 1,
        });
        let of = match self.of {
            Of::Name => 0,
            Of::Path => 1,
            Of::Header(_) => 2,
        };
        (beginnings.max().unwrap_or_default(), of, self.texts.len())
    }
}

/// What `condition` needs; `None` for nothing that can be filed.
fn need(condition: &Condition) -> Option<Need<'_>> {
    match condition {
        Condition::Authenticated(Some(matcher)) => texts(matcher).map(|texts| Need { of: Of::Name, texts }),
        Condition::Mtls(Some(san)) if san.kind == SanKind::Uri => {
            texts(&san.matcher).map(|texts| Need { of: Of::Name, texts })
        }
        Condition::Path(matcher) => texts(matcher).map(|texts| Need { of: Of::Path, texts }),
        Condition::Header(asked) => match (&asked.name, &asked.check) {
            // Of methods, schemes and the like there are too few to tell anybody apart.
            (HeaderRef::Name(_) | HeaderRef::Authority, HeaderCheck::Value(matcher))
                if !asked.invert && !asked.treat_missing_as_empty =>
            {
                texts(matcher).map(|texts| Need { of: Of::Header(&asked.name), texts })
            }
            _ => None,
        },
        Condition::All(all) => all.iter().filter_map(need).min_by_key(Need::cost),
        Condition::OneOf(any) => {
            let mut needs = any.iter().map(need);
            let mut first = needs.next()??;
            for other in needs {
                let other = other?;
                if other.of != first.of || first.texts.len() + other.texts.len() > MOST {
                    return None;
                }
                first.texts.extend(other.texts);
            }
            Some(first)
        }
        _ => None,
    }
}

/// The texts of which one must be there, or must be begun with.
fn texts(matcher: &StringMatcher) -> Option<Vec<Text>> {
    if matcher.ignore_case {
        return None;
    }
    match &matcher.matcher {
        StringMatch::Exact(text) => Some(vec![Text::Whole(text.clone())]),
        StringMatch::Prefix(text) if !text.is_empty() => Some(vec![Text::Beginning(text.clone())]),
        StringMatch::Regex(regex) => {
            let parsed = regex_syntax::ParserBuilder::new().dot_matches_new_line(true).build();
            let parsed = { parsed }.parse(regex.as_str()).ok()?;
            let found = Extractor::new().extract(&parsed);
            let literals =
                found.literals().filter(|literals| !literals.is_empty() && literals.len() <= MOST)?;
            let text = |bytes: &[u8]| {
                let text = std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty())?;
                Some(Text::Beginning(text.into()))
            };
            literals.iter().map(|literal| text(literal.as_bytes())).collect()
        }
        StringMatch::Prefix(_) | StringMatch::Suffix(_) | StringMatch::Contains(_) => None,
    }
}
