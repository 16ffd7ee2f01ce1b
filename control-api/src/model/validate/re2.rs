//! What a regular expression may have so that RE2 reads it, and reads the same in it: Envoy and gRPC use RE2, which refuses some
//! of what Rust's expressions have and takes some of it for something else. One that it refuses would take with it all other
//! routes that a proxy is told at the same time. <https://github.com/google/re2/wiki/Syntax>

use regex_syntax::ast::{
    Assertion, AssertionKind, Ast, ClassSetBinaryOp, ClassSetItem, ClassUnicode, ClassUnicodeKind, Flag,
    Flags, FlagsItemKind, GroupKind, HexLiteralKind, Literal, LiteralKind, RepetitionKind, RepetitionRange,
    Visitor,
};

/// The most repetitions that RE2 takes, those of nested ones multiplied.
const REPETITIONS: u32 = 1000;

/// Looks for what RE2 does not have.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// The repetitions around the current place: their counts.
    around: Vec<u32>,
}

impl Judge {
    fn repetition(&mut self, kind: &RepetitionKind, inner: &Ast) -> Result<(), String> {
        if matches!(inner, Ast::Repetition(_)) {
            return Err("a repetition follows a repetition; put the first one in a group".to_owned());
        }
        let most = match kind {
            RepetitionKind::Range(
                RepetitionRange::Exactly(count)
                | RepetitionRange::AtLeast(count)
                | RepetitionRange::Bounded(_, count),
            ) => (*count).max(1),
            _ => 1,
        };
        self.around.push(most);
        let product = self.around.iter().fold(1_u32, |all, count| all.saturating_mul(*count));
        if product > REPETITIONS {
            return Err(format!("more than {REPETITIONS} repetitions"));
        }
        Ok(())
    }
}

fn flags(flags: &Flags) -> Result<(), String> {
    for item in &flags.items {
        if let FlagsItemKind::Flag(Flag::Unicode | Flag::CRLF | Flag::IgnoreWhitespace) = item.kind {
            return Err("there are no other flags than i, m, s and U".to_owned());
        }
    }
    Ok(())
}

fn assertion(it: &Assertion) -> Result<(), String> {
    match it.kind {
        AssertionKind::StartLine
        | AssertionKind::EndLine
        | AssertionKind::StartText
        | AssertionKind::EndText
        | AssertionKind::WordBoundary
        | AssertionKind::NotWordBoundary => Ok(()),
        _ => Err("there are no other word boundaries than \\b and \\B".to_owned()),
    }
}

fn literal(it: &Literal) -> Result<(), String> {
    match it.kind {
        LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
        | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => {
            Err("there is no \\u or \\U; use \\x{...}".to_owned())
        }
        _ => Ok(()),
    }
}

fn unicode(it: &ClassUnicode) -> Result<(), String> {
    match &it.kind {
        ClassUnicodeKind::OneLetter(_) => Ok(()),
        // General categories have two letters at most; scripts are written with a capital in front.
        ClassUnicodeKind::Named(name) if name.len() <= 2 || name.starts_with(char::is_uppercase) => Ok(()),
        _ => Err("after \\p comes a general category of one or two letters, or a script".to_owned()),
    }
}

impl Visitor for Judge {
    type Output = ();
    type Err = String;

    fn finish(self) -> Result<(), String> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), String> {
        match ast {
            Ast::Repetition(it) => self.repetition(&it.op.kind, &it.ast),
            Ast::Flags(it) => flags(&it.flags),
            Ast::Group(it) => match &it.kind {
                GroupKind::NonCapturing(it) => flags(it),
                _ => Ok(()),
            },
            Ast::Assertion(it) => assertion(it),
            Ast::Literal(it) => literal(it),
            Ast::ClassUnicode(it) => unicode(it),
            _ => Ok(()),
        }
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), String> {
        if matches!(ast, Ast::Repetition(_)) {
            self.around.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), String> {
        match item {
            ClassSetItem::Bracketed(_) => {
                Err("[ in a class is written \\[: there are no classes in classes".to_owned())
            }
            ClassSetItem::Literal(it) => literal(it),
            ClassSetItem::Range(it) => literal(&it.start).and(literal(&it.end)),
            ClassSetItem::Unicode(it) => unicode(it),
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ClassSetBinaryOp) -> Result<(), String> {
        Err("there are no operations of sets in classes (&&, --, ~~)".to_owned())
    }
}
