//! Text to [`Expr`], by the parser of the crate `cel`.

use std::thread;

use cel::common::ast::{EntryExpr, Expr as Parsed, IdedExpr, LiteralValue};
use cel::parser::Parser;

use super::ast::{Expr, Literal};
use super::compile::CelError;
use super::{DEEPEST, LONGEST};

/// The parser's stack. It calls itself for each level, and `a+a+a` has as many as it has operators.
const STACK: usize = 128 << 20;

/// The expression `text`.
pub(super) fn parse(text: &str) -> Result<Expr, CelError> {
    if text.len() > LONGEST {
        return Err(CelError::TooLong(text.len()));
    }
    // On a stack of its own: neither what is nested deeply nor a panic of the parser reaches us. Configuration alone is
    // parsed, never anything of a request.
    let text = text.to_owned();
    let parser = thread::Builder::new().name("cel-parser".to_owned()).stack_size(STACK);
    let parser = parser.spawn(move || read(&text)).map_err(|error| CelError::Syntax(error.to_string()))?;
    parser.join().unwrap_or_else(|_| Err(CelError::Syntax("the parser does not cope with it".to_owned())))
}

fn read(text: &str) -> Result<Expr, CelError> {
    let parser = Parser::new().max_recursion_depth(DEEPEST as u16);
    let parsed = parser.parse(text).map_err(|errors| {
        let errors = errors.errors.iter().take(3);
        let texts: Vec<String> =
            errors.map(|error| format!("{} at {}:{}", error.msg, error.pos.0, error.pos.1)).collect();
        CelError::Syntax(texts.join("; "))
    })?;
    expr(&parsed, 0)
}

fn expr(parsed: &IdedExpr, depth: usize) -> Result<Expr, CelError> {
    if depth > DEEPEST {
        return Err(CelError::TooDeep);
    }
    let inner = |parsed: &IdedExpr| expr(parsed, depth + 1);
    Ok(match &parsed.expr {
        Parsed::Unspecified => return Err(CelError::Syntax("it is empty".to_owned())),
        Parsed::Literal(value) => Expr::Literal(literal(value)),
        Parsed::Ident(name) => Expr::Ident(name.clone()),
        Parsed::Select(select) => Expr::Select {
            operand: Box::new(inner(&select.operand)?),
            field: select.field.clone(),
            test: select.test,
        },
        Parsed::Call(call) => Expr::Call {
            function: call.func_name.clone(),
            target: match &call.target {
                Some(target) => Some(Box::new(inner(target)?)),
                None => None,
            },
            args: call.args.iter().map(inner).collect::<Result<_, _>>()?,
        },
        Parsed::List(list) if list.optional_indices.is_empty() => {
            Expr::List(list.elements.iter().map(inner).collect::<Result<_, _>>()?)
        }
        Parsed::Map(map) => Expr::Map(
            map.entries
                .iter()
                .map(|entry| match &entry.expr {
                    EntryExpr::MapEntry(entry) if !entry.optional => {
                        Ok((inner(&entry.key)?, inner(&entry.value)?))
                    }
                    _ => Err(CelError::Unsupported("optional entries")),
                })
                .collect::<Result<_, _>>()?,
        ),
        Parsed::List(_) => return Err(CelError::Unsupported("optional entries")),
        Parsed::Struct(_) => return Err(CelError::Unsupported("messages")),
        Parsed::Comprehension(_) => return Err(CelError::Comprehension),
    })
}

fn literal(value: &LiteralValue) -> Literal {
    match value {
        LiteralValue::Null => Literal::Null,
        LiteralValue::Boolean(value) => Literal::Bool(*value.inner()),
        LiteralValue::Int(value) => Literal::Int(*value.inner()),
        LiteralValue::UInt(value) => Literal::Uint(*value.inner()),
        LiteralValue::Double(value) => Literal::Double(*value.inner()),
        LiteralValue::String(value) => Literal::Text(value.inner().to_owned()),
        LiteralValue::Bytes(value) => Literal::Bytes(value.inner().to_vec()),
    }
}
