//! YAML text to [`Node`]s.

use std::{collections::HashMap, rc::Rc};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::node::{Entry, Kind, MAX_ALIASED_NODES, MAX_DEPTH, Node, Style, SyntaxError};

/// Reads the first document of a YAML text, as Envoy does.
///
/// Anchors and aliases work; merge keys (`<<`) are left as ordinary keys, since Envoy does not know them either.
pub(crate) fn read(text: &str) -> Result<Node, SyntaxError> {
    let options = granit_parser::options! {
        emit_comments: false,
        block_nesting_limit: MAX_DEPTH,
        flow_nesting_limit: MAX_DEPTH,
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event
            .map_err(|error| SyntaxError { line: line(error.marker().line()), message: error.info() })?;
        if let Some(node) = builder.event(event, span)? {
            return Ok(node);
        }
    }
    Ok(Node { line: 1, kind: Kind::Null })
}

/// A finished node and how deep it nests.
type Finished = (Node, usize);

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Finished>>,
    aliased: usize,
}

/// A collection whose end has not come yet.
struct Open {
    line: u32,
    anchor: usize,
    height: usize,
    items: Items,
}

enum Items {
    Seq(Vec<Node>),
    /// The entries so far, and the key whose value comes next.
    Map(Vec<Entry>, Option<(String, u32)>),
}

impl Builder {
    /// Takes the next event; returns the document once it is complete.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Node>, SyntaxError> {
        let line = line(span.start.line());
        match event {
            Event::SequenceStart(_, anchor, _) => self.start(line, anchor, Items::Seq(Vec::new()))?,
            Event::MappingStart(_, anchor, _) => self.start(line, anchor, Items::Map(Vec::new(), None))?,
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(None) };
                let kind = match open.items {
                    Items::Seq(items) => Kind::Seq(items),
                    Items::Map(entries, _) => Kind::Map(entries),
                };
                return self.finish((Node { line: open.line, kind }, open.height + 1), open.anchor);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let kind = scalar(&text, style, tag.as_deref());
                return self.finish((Node { line, kind }, 1), anchor);
            }
            Event::Alias(anchor) => {
                let Some(target) = self.anchors.get(&anchor).cloned() else {
                    return Err(SyntaxError {
                        line,
                        message: "an alias inside what it stands for".to_owned(),
                    });
                };
                self.aliased += count(&target.0);
                if self.aliased > MAX_ALIASED_NODES {
                    let message = format!("aliases expand to more than {MAX_ALIASED_NODES} values");
                    return Err(SyntaxError { line, message });
                }
                let (mut node, height) = (target.0.clone(), target.1);
                node.line = line;
                return self.finish((node, height), 0);
            }
            _ => {}
        }
        Ok(None)
    }

    fn start(&mut self, line: u32, anchor: usize, items: Items) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(line));
        }
        self.open.push(Open { line, anchor, height: 0, items });
        Ok(())
    }

    /// Puts a finished node where it belongs; returns it if it is the document.
    fn finish(&mut self, finished: Finished, anchor: usize) -> Result<Option<Node>, SyntaxError> {
        if self.open.len() + finished.1 > MAX_DEPTH + 1 {
            return Err(too_deep(finished.0.line));
        }
        let (node, height) = if anchor == 0 {
            finished
        } else {
            let kept = Rc::new(finished);
            self.anchors.insert(anchor, Rc::clone(&kept));
            (kept.0.clone(), kept.1)
        };
        let Some(parent) = self.open.last_mut() else { return Ok(Some(node)) };
        parent.height = parent.height.max(height);
        match &mut parent.items {
            Items::Seq(items) => items.push(node),
            Items::Map(entries, key) => match key.take() {
                Some((key, line)) => entries.push(Entry { key, line, value: node }),
                None => match node.kind {
                    Kind::Scalar(text, _) => *key = Some((text, node.line)),
                    Kind::Null => *key = Some(("null".to_owned(), node.line)),
                    Kind::Seq(_) | Kind::Map(_) => {
                        let message = "a key must be a plain value, not a collection".to_owned();
                        return Err(SyntaxError { line: node.line, message });
                    }
                },
            },
        }
        Ok(None)
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Kind {
    if !matches!(style, ScalarStyle::Plain) || tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str")) {
        return Kind::Scalar(text.to_owned(), Style::Quoted);
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        _ => Kind::Scalar(text.to_owned(), Style::Plain),
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::Seq(items) => items.iter().map(count).sum(),
        Kind::Map(entries) => entries.iter().map(|entry| count(&entry.value)).sum(),
        _ => 0,
    }
}

fn too_deep(line: u32) -> SyntaxError {
    SyntaxError { line, message: format!("nested deeper than {MAX_DEPTH} levels") }
}

fn line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'n>(node: &'n Node, key: &str) -> &'n Node {
        node.get(key, key).unwrap()
    }

    #[test]
    fn keeps_lines_and_styles() {
        let node = read("a: 1\nb:\n- 'x'\n- ~\nc: |\n  text\n").unwrap();
        assert_eq!(entry(&node, "a"), &Node { line: 1, kind: Kind::Scalar("1".into(), Style::Plain) });
        let Kind::Seq(items) = &entry(&node, "b").kind else { panic!("no list") };
        assert_eq!(items[0], Node { line: 3, kind: Kind::Scalar("x".into(), Style::Quoted) });
        assert_eq!(items[1], Node { line: 4, kind: Kind::Null });
        assert_eq!(entry(&node, "c").text(), Some("text\n"));
    }

    #[test]
    fn aliases_expand_and_bombs_do_not_go_off() {
        let node = read("a: &x {k: v}\nb: *x\n").unwrap();
        assert_eq!(entry(entry(&node, "b"), "k").text(), Some("v"));

        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let last = level - 1;
            let items = vec![format!("*a{last}"); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert!(read(&bomb).unwrap_err().message.contains("aliases expand"));
    }

    #[test]
    fn depth_is_bounded_through_aliases_too() {
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&"- ".repeat(100_000)).is_err());
        let mut text = format!("a0: &a0 {}{}\n", "[".repeat(150), "]".repeat(150));
        for level in 1..10 {
            text.push_str(&format!(
                "a{level}: &a{level} {}*a{}{}\n",
                "[".repeat(150),
                level - 1,
                "]".repeat(150)
            ));
        }
        assert_eq!(read(&text).unwrap_err().line, 2);
    }

    #[test]
    fn syntax_errors_name_the_line() {
        assert!(read("a: 1\nb: [1, 2\nc: 3\n").unwrap_err().line > 1);
        assert!(read("? [a]\n: b\n").unwrap_err().message.contains("key"));
        assert_eq!(read("").unwrap().kind, Kind::Null);
    }
}
