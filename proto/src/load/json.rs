//! JSON text to [`Node`]s.
//!
//! YAML would read most JSON, but not all of it (surrogate pairs, long keys); and in JSON a number is a number, where
//! in YAML Envoy makes strings of some.

use super::node::{Entry, Kind, MAX_DEPTH, Node, Style, SyntaxError};

/// Reads a JSON text (RFC 8259).
pub(crate) fn read(text: &str) -> Result<Node, SyntaxError> {
    let mut reader = Reader { rest: text.strip_prefix('\u{feff}').unwrap_or(text), line: 1 };
    let node = reader.value(0)?;
    reader.space();
    if reader.rest.is_empty() { Ok(node) } else { reader.fail("text after the end of the value") }
}

struct Reader<'t> {
    rest: &'t str,
    line: u32,
}

impl Reader<'_> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { line: self.line, message: message.into() })
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn peek(&self) -> Option<u8> {
        self.rest.as_bytes().first().copied()
    }

    fn space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            self.line = self.line.saturating_add(u32::from(byte == b'\n'));
            self.skip(1);
        }
    }

    /// Consumes `byte`, after white space, if it is next.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        if found {
            self.skip(1);
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        if depth > MAX_DEPTH {
            return self.fail(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.space();
        let line = self.line;
        let kind = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Kind::Scalar(self.string()?, Style::Quoted),
            Some(b'-' | b'0'..=b'9') => Kind::Scalar(self.number()?, Style::Literal),
            Some(b'a'..=b'z') => {
                let end = self.rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(self.rest.len());
                let word = self.rest.get(..end).unwrap_or_default();
                let kind = match word {
                    "null" => Kind::Null,
                    "true" | "false" => Kind::Scalar(word.to_owned(), Style::Literal),
                    _ => {
                        return self.fail(
                            "a word that is neither true, false nor null; a string needs double quotes",
                        );
                    }
                };
                self.skip(end);
                kind
            }
            Some(_) => return self.fail("expected a value"),
            None => return self.fail("the text ends where a value should be"),
        };
        Ok(Node { line, kind })
    }

    fn object(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        self.skip(1);
        let mut entries = Vec::new();
        if self.take(b'}') {
            return Ok(Kind::Map(entries));
        }
        loop {
            self.space();
            let line = self.line;
            if self.peek() != Some(b'"') {
                return self.fail("expected a key in double quotes");
            }
            let key = self.string()?;
            if !self.take(b':') {
                return self.fail("expected ':' after a key");
            }
            let value = self.value(depth + 1)?;
            entries.push(Entry { key, line, value });
            if self.take(b',') {
                continue;
            }
            if self.take(b'}') {
                return Ok(Kind::Map(entries));
            }
            return self.fail("expected ',' or '}'");
        }
    }

    fn array(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        self.skip(1);
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Kind::Seq(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take(b',') {
                continue;
            }
            if self.take(b']') {
                return Ok(Kind::Seq(items));
            }
            return self.fail("expected ',' or ']'");
        }
    }

    /// Finds the end of a string and leaves its escapes to `serde_json`.
    fn string(&mut self) -> Result<String, SyntaxError> {
        let bytes = self.rest.as_bytes();
        let mut end = 1;
        loop {
            match bytes.get(end) {
                None => return self.fail("a string without an end"),
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
            }
        }
        let Some(quoted) = self.rest.get(..=end) else { return self.fail("a string without an end") };
        match serde_json::from_str(quoted) {
            Ok(text) => {
                self.skip(end + 1);
                Ok(text)
            }
            Err(_) => self.fail("a string with a bad escape or a raw control character"),
        }
    }

    fn number(&mut self) -> Result<String, SyntaxError> {
        let end = self.rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'));
        let end = end.unwrap_or(self.rest.len());
        let number = self.rest.get(..end).unwrap_or_default().to_owned();
        if serde_json::from_str::<serde_json::Number>(&number).is_err() {
            return self.fail("not a number");
        }
        self.skip(end);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_json_with_lines() {
        let node = read("{\"a\": [1.50, true,\n null, \"\\ud83d\\ude00\\/\"],\n\t\"b\": {}}").unwrap();
        let Kind::Seq(items) = &node.get("a", "a").unwrap().kind else { panic!("no list") };
        assert_eq!(items[0], Node { line: 1, kind: Kind::Scalar("1.50".into(), Style::Literal) });
        assert_eq!(items[2], Node { line: 2, kind: Kind::Null });
        assert_eq!(items[3].text(), Some("\u{1f600}/"));
        assert_eq!(node.get("b", "b").unwrap().line, 3);
    }

    #[test]
    fn refuses_what_is_not_json() {
        for (text, message) in [
            ("{\"a\": }", "expected a value"),
            ("{\"a\" 1}", "':'"),
            ("[1 2]", "',' or ']'"),
            ("[1,]", "expected a value"),
            ("{'a': 1}", "double quotes"),
            ("01", "not a number"),
            ("tru", "neither true"),
            ("\"a", "without an end"),
            ("\"\\", "without an end"),
            ("\"\\é\"", "bad escape"),
            ("\"a\nb\"", "bad escape"),
            ("1 2", "after the end"),
            ("", "ends where"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.message.contains(message), "{text}: {}", error.message);
        }
        assert!(read(&"[".repeat(1_000_000)).unwrap_err().message.contains("deeper"));
    }
}
