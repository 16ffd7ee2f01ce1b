//! Changes to headers, as the route table's levels ask for them.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_config::model::{AddTarget, AppendAction, HeaderAdd, HeaderAddValue};
use outrider_core::format::FormatContext;
use smallvec::SmallVec;

/// All changes for one (virtual host, route, cluster), in the order in which the levels are applied.
///
/// Inside a level Envoy removes first; then it evaluates all values against what is there, overwrites, and adds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mutations {
    levels: Box<[Level]>,
}

#[derive(Debug, Clone)]
struct Level {
    remove: Box<[HeaderName]>,
    add: Box<[Add]>,
}

#[derive(Debug, Clone)]
struct Add {
    name: HeaderName,
    value: HeaderAddValue,
    action: AppendAction,
    keep_empty: bool,
}

/// Gives formats the context they read: the message's headers as they are at that moment, and the rest.
pub(crate) trait ContextSource {
    /// Calls `f` with the context around `headers`.
    fn with(&self, headers: &HeaderMap, f: &mut dyn FnMut(&FormatContext<'_>));
}

/// The order of the levels, from the route configuration down to the weighted cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Levels<'a> {
    pub(crate) table: (&'a [HeaderName], &'a [HeaderAdd]),
    pub(crate) host: (&'a [HeaderName], &'a [HeaderAdd]),
    pub(crate) route: (&'a [HeaderName], &'a [HeaderAdd]),
    pub(crate) cluster: Option<(&'a [HeaderName], &'a [HeaderAdd])>,
}

impl Mutations {
    /// Lines the levels up: the most specific first, or last when it is to win. A weighted cluster's own
    /// changes always come first (Envoy applies them before it hands over to the route).
    pub(crate) fn build(levels: &Levels<'_>, most_specific_wins: bool) -> Self {
        let mut order: SmallVec<[_; 4]> = SmallVec::new();
        order.extend(levels.cluster);
        if most_specific_wins {
            order.extend([levels.table, levels.host, levels.route]);
        } else {
            order.extend([levels.route, levels.host, levels.table]);
        }
        let filled = order.into_iter().filter(|(remove, add)| !remove.is_empty() || !add.is_empty());
        Self { levels: filled.map(|(remove, add)| Level::new(remove, add)).collect() }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Whether a value is evaluated for each message.
    pub(crate) fn has_formats(&self) -> bool {
        let mut values = self.levels.iter().flat_map(|level| &level.add).map(|add| &add.value);
        values.any(|value| matches!(value, HeaderAddValue::Format(_)))
    }

    /// Whether a value is evaluated that reads metadata.
    pub(crate) fn reads_metadata(&self) -> bool {
        let mut values = self.levels.iter().flat_map(|level| &level.add).map(|add| &add.value);
        values.any(|value| matches!(value, HeaderAddValue::Format(format) if format.reads_metadata()))
    }

    /// Applies all levels to `headers`.
    pub(crate) fn apply(&self, headers: &mut HeaderMap, context: &dyn ContextSource) {
        for level in &self.levels {
            level.apply(headers, context);
        }
    }
}

impl Level {
    fn new(remove: &[HeaderName], add: &[HeaderAdd]) -> Self {
        let add = add.iter().filter_map(|add| {
            // Pseudo headers cannot be added: the conversion refuses them, as Envoy does.
            let AddTarget::Name(name) = &add.name else { return None };
            let HeaderAdd { value, action, keep_empty, .. } = add;
            Some(Add { name: name.clone(), value: value.clone(), action: *action, keep_empty: *keep_empty })
        });
        Self { remove: remove.into(), add: add.collect() }
    }

    fn apply(&self, headers: &mut HeaderMap, context: &dyn ContextSource) {
        for name in &self.remove {
            headers.remove(name);
        }
        let mut values: SmallVec<[Option<HeaderValue>; 8]> = SmallVec::new();
        values.extend(self.add.iter().map(|add| add.evaluate(headers, context)));
        // Conditions look at what was there before this level added anything.
        for (add, value) in self.add.iter().zip(&mut values) {
            let present = || headers.contains_key(&add.name);
            let wanted = match add.action {
                AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => true,
                AppendAction::AddIfAbsent => value.is_some() && !present(),
                AppendAction::OverwriteIfExists => value.is_some() && present(),
            };
            if !wanted {
                *value = None;
            }
        }
        for (add, value) in self.add.iter().zip(&mut values).filter(|(add, _)| add.overwrites()) {
            if let Some(value) = value.take() {
                headers.insert(&add.name, value);
            }
        }
        for (add, value) in self.add.iter().zip(&mut values) {
            if let Some(value) = value.take() {
                headers.append(&add.name, value);
            }
        }
    }
}

impl Add {
    fn overwrites(&self) -> bool {
        matches!(self.action, AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists)
    }

    fn evaluate(&self, headers: &HeaderMap, context: &dyn ContextSource) -> Option<HeaderValue> {
        let value = match &self.value {
            HeaderAddValue::Literal(value) => value.clone(),
            HeaderAddValue::Format(format) => {
                let mut text = Vec::new();
                context.with(headers, &mut |cx| format.write(cx, true, &mut text));
                // Bytes that cannot stand in a header drop the header, never the request.
                HeaderValue::from_maybe_shared(Bytes::from(text)).ok()?
            }
        };
        (self.keep_empty || !value.is_empty()).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoContext;

    impl ContextSource for NoContext {
        fn with(&self, _: &HeaderMap, _: &mut dyn FnMut(&FormatContext<'_>)) {}
    }

    fn add(name: &'static str, value: &'static str, action: AppendAction) -> HeaderAdd {
        HeaderAdd {
            name: AddTarget::Name(HeaderName::from_static(name)),
            value: HeaderAddValue::Literal(HeaderValue::from_static(value)),
            action,
            keep_empty: false,
        }
    }

    fn run(levels: &Levels<'_>, wins: bool, start: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in start {
            headers.append(*name, HeaderValue::from_static(value));
        }
        Mutations::build(levels, wins).apply(&mut headers, &NoContext);
        let line =
            |(name, value): (&HeaderName, &HeaderValue)| format!("{name}={}", value.to_str().expect("ascii"));
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    const NONE: (&[HeaderName], &[HeaderAdd]) = (&[], &[]);

    fn only(route: (&[HeaderName], &[HeaderAdd]), start: &[(&'static str, &'static str)]) -> Vec<String> {
        run(&Levels { table: NONE, host: NONE, route, cluster: None }, false, start)
    }

    #[test]
    fn actions_do_what_their_names_say() {
        use AppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
        for (action, there, absent) in [
            (AppendIfExistsOrAdd, &["x=new", "x=old"][..], &["x=new"][..]),
            (AddIfAbsent, &["x=old"], &["x=new"]),
            (OverwriteIfExistsOrAdd, &["x=new"], &["x=new"]),
            (OverwriteIfExists, &["x=new"], &[]),
        ] {
            let adds = [add("x", "new", action)];
            assert_eq!(only((&[], &adds), &[("x", "old")]), there, "{action:?}");
            assert_eq!(only((&[], &adds), &[]), absent, "{action:?}");
        }
    }

    #[test]
    fn removal_comes_before_adding_and_empty_values_are_dropped_unless_kept() {
        let remove = [HeaderName::from_static("x")];
        let adds = [add("x", "new", AppendAction::AppendIfExistsOrAdd)];
        assert_eq!(only((&remove, &adds), &[("x", "a"), ("x", "b")]), ["x=new"]);
        let mut empty = [add("y", "", AppendAction::AppendIfExistsOrAdd)];
        assert!(only((&[], &empty), &[]).is_empty());
        empty[0].keep_empty = true;
        assert_eq!(only((&[], &empty), &[]), ["y="]);
    }

    #[test]
    fn conditions_look_at_the_message_before_the_level() {
        let adds = [
            add("x", "first", AppendAction::AddIfAbsent),
            add("x", "second", AppendAction::AddIfAbsent),
            add("x", "third", AppendAction::OverwriteIfExistsOrAdd),
        ];
        assert_eq!(only((&[], &adds), &[]), ["x=first", "x=second", "x=third"]);
    }

    #[test]
    fn the_last_level_wins_and_the_order_can_be_turned() {
        let set = |value| [add("x", value, AppendAction::OverwriteIfExistsOrAdd)];
        let (table, host, route, cluster) = (set("table"), set("host"), set("route"), set("cluster"));
        let levels = Levels {
            table: (&[], &table),
            host: (&[], &host),
            route: (&[], &route),
            cluster: Some((&[], &cluster)),
        };
        assert_eq!(run(&levels, false, &[]), ["x=table"]);
        assert_eq!(run(&levels, true, &[]), ["x=route"]);
    }
}
