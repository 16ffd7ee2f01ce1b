//! [`Expr`] as text that parses to the same again: for people, who are told which condition did not hold.

use std::fmt::{self, Display, Formatter};

use super::ast::{Expr, Literal};

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(value) => value.fmt(f),
            Self::Ident(name) => f.write_str(name),
            Self::Select { operand, field, test: true } => write!(f, "has({}.{field})", Operand(operand)),
            Self::Select { operand, field, test: false } => write!(f, "{}.{field}", Operand(operand)),
            Self::Call { function, target: None, args } => match (operator(function), args.as_slice()) {
                (Some("?"), [condition, yes, no]) => {
                    write!(f, "{} ? {} : {}", Operand(condition), Operand(yes), Operand(no))
                }
                (Some("["), [of, at]) => write!(f, "{}[{at}]", Operand(of)),
                (Some(sign), [left, right]) => write!(f, "{} {sign} {}", Operand(left), Operand(right)),
                (Some(sign), [one]) => write!(f, "{sign}({one})"),
                _ => write!(f, "{function}({})", List(args)),
            },
            Self::Call { function, target: Some(target), args } => {
                write!(f, "{}.{function}({})", Operand(target), List(args))
            }
            Self::List(elements) => write!(f, "[{}]", List(elements)),
            Self::Map(entries) => {
                f.write_str("{")?;
                for (i, (key, value)) in entries.iter().enumerate() {
                    let between = if i == 0 { "" } else { ", " };
                    write!(f, "{between}{}: {}", Operand(key), Operand(value))?;
                }
                f.write_str("}")
            }
        }
    }
}

impl Display for Literal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Uint(value) => write!(f, "{value}u"),
            // With a point or an exponent in any case, or it would be read as an integer.
            Self::Double(value) => write!(f, "{value:?}"),
            Self::Text(text) => {
                f.write_str("\"")?;
                for c in text.chars() {
                    match c {
                        '"' | '\\' => write!(f, "\\{c}")?,
                        ' '..='~' => write!(f, "{c}")?,
                        c => write!(f, "\\U{:08x}", u32::from(c))?,
                    }
                }
                f.write_str("\"")
            }
            Self::Bytes(bytes) => {
                f.write_str("b\"")?;
                bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
                f.write_str("\"")
            }
        }
    }
}

/// Arguments.
struct List<'a>(&'a [Expr]);

impl Display for List<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, one) in self.0.iter().enumerate() {
            write!(f, "{}{one}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// A part beside an operator: in parentheses if it could be read otherwise.
struct Operand<'a>(&'a Expr);

impl Display for Operand<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let plain = match self.0 {
            Expr::Literal(Literal::Int(value)) => *value >= 0,
            Expr::Literal(Literal::Double(value)) => value.is_sign_positive(),
            Expr::Call { function, target: None, .. } => matches!(operator(function), None | Some("[")),
            _ => true,
        };
        if plain { self.0.fmt(f) } else { write!(f, "({})", self.0) }
    }
}

/// How an operator is written.
fn operator(function: &str) -> Option<&'static str> {
    Some(match function {
        "_&&_" => "&&",
        "_||_" => "||",
        "_==_" => "==",
        "_!=_" => "!=",
        "_<_" => "<",
        "_<=_" => "<=",
        "_>_" => ">",
        "_>=_" => ">=",
        "_+_" => "+",
        "_-_" | "-_" => "-",
        "_*_" => "*",
        "_/_" => "/",
        "_%_" => "%",
        "!_" => "!",
        "@in" => "in",
        "_?_:_" => "?",
        "_[_]" => "[",
        _ => return None,
    })
}
