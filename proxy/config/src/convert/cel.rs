//! Expressions of CEL: as text, and parsed.

use outrider_core::cel::ast::{Expr, Literal};
use outrider_core::cel::{CelError, DEEPEST, Extras, Options, Place, Program};
use outrider_core::metadata::note_reader;
use outrider_proto::Path;
use outrider_proto::pb::cel::expr as new_pb;
use outrider_proto::pb::envoy::config::core::v3::CelExpressionConfig;
use outrider_proto::pb::google::api::expr::v1alpha1 as pb;
use outrider_proto::pb::xds::r#type::v3::{CelExpression, cel_expression::ExprSpecifier};
use outrider_proto::prost::Message as _;
use regex::Regex;

use super::cx::Cx;
use super::re2;

/// The expression `text`; `None`, and an error, when it is not usable.
pub(crate) fn text(
    cx: &Cx,
    path: &Path<'_>,
    text: &str,
    config: Option<&CelExpressionConfig>,
    place: Place,
) -> Option<Program> {
    told(cx, path, with(config, place, |options| Program::parse(text, options)))
}

/// An expression that was parsed already.
pub(crate) fn parsed(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::Expr,
    config: Option<&CelExpressionConfig>,
    place: Place,
) -> Option<Program> {
    let compiled =
        expr(message, 0).and_then(|expr| with(config, place, |options| Program::compile(&expr, options)));
    told(cx, path, compiled)
}

/// An expression of a matcher, in any of its forms. As in Envoy a checked one comes before a parsed one.
pub(crate) fn expression(cx: &Cx, path: &Path<'_>, message: &CelExpression, place: Place) -> Option<Program> {
    let CelExpression { cel_expr_parsed, cel_expr_checked, cel_expr_string, expr_specifier } = message;
    let parsed = |field: &str, message: Option<&pb::Expr>| {
        let path = path.field(field);
        let path = path.field("expr");
        let Some(message) = message else {
            cx.error(&path, "an expression is needed");
            return None;
        };
        self::parsed(cx, &path, message, None, place)
    };
    // What was checked, and where it stood in a text, is for tools: evaluation needs neither.
    if let Some(new_pb::CheckedExpr {
        reference_map: _references,
        type_map: _types,
        source_info: _source,
        expr_version: _version,
        expr,
    }) = cel_expr_checked
    {
        return parsed("cel_expr_checked", expr.as_ref().and_then(old).as_ref());
    }
    if let Some(new_pb::ParsedExpr { expr, source_info: _source }) = cel_expr_parsed {
        return parsed("cel_expr_parsed", expr.as_ref().and_then(old).as_ref());
    }
    if !cel_expr_string.is_empty() {
        return text(cx, &path.field("cel_expr_string"), cel_expr_string, None, place);
    }
    match expr_specifier {
        Some(ExprSpecifier::CheckedExpr(pb::CheckedExpr {
            reference_map: _references,
            type_map: _types,
            source_info: _source,
            expr_version: _version,
            expr,
        })) => parsed("checked_expr", expr.as_ref()),
        Some(ExprSpecifier::ParsedExpr(pb::ParsedExpr { expr, source_info: _source })) => {
            parsed("parsed_expr", expr.as_ref())
        }
        None => {
            cx.error(path, "give one of cel_expr_parsed, cel_expr_checked and cel_expr_string");
            None
        }
    }
}

/// The message under its former name, which has the same fields under the same numbers.
fn old(message: &new_pb::Expr) -> Option<pb::Expr> {
    pb::Expr::decode(message.encode_to_vec().as_slice()).ok()
}

fn with(
    config: Option<&CelExpressionConfig>,
    place: Place,
    compile: impl FnOnce(&Options<'_>) -> Result<Program, CelError>,
) -> Result<Program, CelError> {
    let CelExpressionConfig { enable_string_conversion, enable_string_concat, enable_string_functions } =
        config.copied().unwrap_or_default();
    let extras = Extras {
        conversion: enable_string_conversion,
        concat: enable_string_concat,
        functions: enable_string_functions,
    };
    compile(&Options { place, extras, regex: &regex })
}

/// An expression that is looked for anywhere in a text.
fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(&re2::translate(pattern)?).map_err(|error| error.to_string())
}

fn told(cx: &Cx, path: &Path<'_>, compiled: Result<Program, CelError>) -> Option<Program> {
    match compiled {
        Ok(program) => {
            if program.reads().dynamic {
                note_reader();
            }
            Some(program)
        }
        Err(error) => {
            cx.error(path, error.to_string());
            None
        }
    }
}

fn expr(message: &pb::Expr, depth: usize) -> Result<Expr, CelError> {
    use pb::expr::ExprKind;
    if depth > DEEPEST {
        return Err(CelError::TooDeep);
    }
    let inner = |message: &pb::Expr| expr(message, depth + 1);
    let boxed = |message: &Option<Box<pb::Expr>>| match message {
        Some(message) => inner(message).map(Box::new),
        None => Err(empty()),
    };
    let pb::Expr { id: _id, expr_kind } = message;
    Ok(match expr_kind {
        None => return Err(empty()),
        Some(ExprKind::ConstExpr(message)) => Expr::Literal(literal(message)?),
        Some(ExprKind::IdentExpr(pb::expr::Ident { name })) => Expr::Ident(name.clone()),
        Some(ExprKind::SelectExpr(select)) => {
            let pb::expr::Select { operand, field, test_only } = &**select;
            Expr::Select { operand: boxed(operand)?, field: field.clone(), test: *test_only }
        }
        Some(ExprKind::CallExpr(call)) => {
            let pb::expr::Call { target, function, args } = &**call;
            Expr::Call {
                function: function.clone(),
                target: if target.is_some() { Some(boxed(target)?) } else { None },
                args: args.iter().map(inner).collect::<Result<_, _>>()?,
            }
        }
        Some(ExprKind::ListExpr(pb::expr::CreateList { elements, optional_indices })) => {
            if !optional_indices.is_empty() {
                return Err(CelError::Unsupported("optional entries"));
            }
            Expr::List(elements.iter().map(inner).collect::<Result<_, _>>()?)
        }
        Some(ExprKind::StructExpr(message)) => entries(message, &inner)?,
        Some(ExprKind::ComprehensionExpr(_)) => return Err(CelError::Comprehension),
    })
}

fn entries(
    message: &pb::expr::CreateStruct,
    inner: &dyn Fn(&pb::Expr) -> Result<Expr, CelError>,
) -> Result<Expr, CelError> {
    use pb::expr::create_struct::{Entry, entry::KeyKind};
    let pb::expr::CreateStruct { message_name, entries } = message;
    if !message_name.is_empty() {
        return Err(CelError::Unsupported("messages"));
    }
    let mut made = Vec::with_capacity(entries.len());
    for Entry { id: _id, value, optional_entry, key_kind } in entries {
        let (Some(KeyKind::MapKey(key)), false) = (key_kind, *optional_entry) else {
            return Err(CelError::Unsupported("optional entries, and keys that are fields,"));
        };
        made.push((inner(key)?, inner(value.as_ref().ok_or_else(empty)?)?));
    }
    Ok(Expr::Map(made))
}

fn literal(message: &pb::Constant) -> Result<Literal, CelError> {
    use pb::constant::ConstantKind;
    let pb::Constant { constant_kind } = message;
    Ok(match constant_kind {
        Some(ConstantKind::NullValue(_)) => Literal::Null,
        Some(ConstantKind::BoolValue(value)) => Literal::Bool(*value),
        Some(ConstantKind::Int64Value(value)) => Literal::Int(*value),
        Some(ConstantKind::Uint64Value(value)) => Literal::Uint(*value),
        Some(ConstantKind::DoubleValue(value)) => Literal::Double(*value),
        Some(ConstantKind::StringValue(text)) => Literal::Text(text.clone()),
        Some(ConstantKind::BytesValue(bytes)) => Literal::Bytes(bytes.clone()),
        Some(ConstantKind::DurationValue(_) | ConstantKind::TimestampValue(_)) => {
            return Err(CelError::Unsupported(
                "constants of times (write calls of duration() or timestamp())",
            ));
        }
        None => return Err(empty()),
    })
}

fn empty() -> CelError {
    CelError::Syntax("a part of it is empty".to_owned())
}
