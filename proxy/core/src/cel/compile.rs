//! [`Expr`] to [`Node`]: names are looked up, constants worked out, regular expressions built.

use std::borrow::Cow;
use std::sync::Arc;

use super::ast::{Expr, Literal};
use super::attribute::{self, Attribute, Named, Of, ROOTS, Side};
use super::eval::{Math, Node, Wanted, map_of, negated};
use super::fault::Fuel;
use super::function::{Call, Function};
use super::value::{Kind, Value};
use super::{DEEPEST, LONGEST, MOST_PARTS, Options, Reads, instant};
use crate::matcher::HeaderRef;

/// Why an expression was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CelError {
    /// It has so many bytes.
    #[error("the expression has {0} bytes; {most} are the most", most = LONGEST)]
    TooLong(usize),
    /// It is nested too deeply.
    #[error("the expression is nested more than {most} deep; write lists, or several policies", most = DEEPEST)]
    TooDeep,
    /// It has too many parts.
    #[error("the expression has more than {most} parts; write several policies", most = MOST_PARTS)]
    TooMany,
    /// It is not what the parser takes.
    #[error("not an expression of CEL: {0}")]
    Syntax(String),
    /// It walks through lists or maps.
    #[error(
        "all, exists, exists_one, map and filter are not supported, in Envoy neither; write in, or matches"
    )]
    Comprehension,
    /// It has something else that is not supported.
    #[error("{0} are not supported in expressions")]
    Unsupported(&'static str),
    /// A name stands for nothing.
    #[error("{0:?} is no attribute; there are {roots}", roots = ROOTS)]
    Name(String),
    /// A group of attributes is used by itself.
    #[error("{0} is no value by itself; name one of its attributes, as in request.path")]
    Group(String),
    /// There is no such attribute.
    #[error("{root} has no attribute {name:?}; they are listed in Envoy's documentation, \"Attributes\"")]
    Attribute {
        /// The attribute's first part.
        root: String,
        /// The rest.
        name: String,
    },
    /// There is such an attribute, in Envoy.
    #[error("{root}.{name} is not supported: {why}")]
    Refused {
        /// The attribute's first part.
        root: String,
        /// The rest.
        name: String,
        /// What to do instead.
        why: &'static str,
    },
    /// A function does not exist, or not so.
    #[error("{name}(): {why}")]
    Function {
        /// Its name.
        name: String,
        /// What to do instead.
        why: &'static str,
    },
    /// An operator has another number of operands.
    #[error("{0} has a wrong number of operands")]
    Operands(String),
    /// What must be a regular expression is none.
    #[error("{pattern:?} is not a regular expression: {why}")]
    Regex {
        /// What was given.
        pattern: String,
        /// What is wrong.
        why: String,
    },
    /// A regular expression is worked out for each request.
    #[error("the regular expression of matches() must be a text; write it out")]
    VariableRegex,
    /// What must be a header's name is none.
    #[error("{0:?} is not a header name")]
    HeaderName(String),
}

/// Compiles `expr`; tells what it reads.
pub(super) fn compile(expr: &Expr, options: &Options<'_>) -> Result<(Node, Reads), CelError> {
    let mut compiler = Compiler { options, parts: 0, reads: Reads::default() };
    let root = compiler.node(expr, 0)?;
    Ok((root, compiler.reads))
}

struct Compiler<'o> {
    options: &'o Options<'o>,
    parts: usize,
    reads: Reads,
}

impl Compiler<'_> {
    fn node(&mut self, expr: &Expr, depth: usize) -> Result<Node, CelError> {
        self.parts += 1;
        if self.parts > MOST_PARTS {
            return Err(CelError::TooMany);
        }
        if depth > DEEPEST {
            return Err(CelError::TooDeep);
        }
        match expr {
            Expr::Literal(literal) => Ok(Node::Constant(constant(literal))),
            Expr::Ident(name) => self.ident(name),
            Expr::Select { operand, field, test } => self.select(operand, field, *test, depth),
            Expr::Call { function, target, args } => self.call(function, target.as_deref(), args, depth),
            Expr::List(elements) => Ok(list(self.nodes(elements, depth)?)),
            Expr::Map(entries) => {
                let mut made = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    made.push((self.node(key, depth + 1)?, self.node(value, depth + 1)?));
                }
                Ok(map(made))
            }
        }
    }

    fn nodes(&mut self, exprs: &[Expr], depth: usize) -> Result<Vec<Node>, CelError> {
        exprs.iter().map(|expr| self.node(expr, depth + 1)).collect()
    }

    fn ident(&mut self, name: &str) -> Result<Node, CelError> {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some(kind) = Kind::of_name(name) {
            return Ok(Node::Constant(Value::Type(kind)));
        }
        match name {
            "metadata" => Ok(self.attribute(Attribute::Metadata(Of::Dynamic), false)),
            // No filter here leaves an object that has a value for expressions.
            "filter_state" => Ok(Node::Constant(Value::Map(Arc::from([])))),
            "upstream_filter_state" => {
                Err(CelError::Unsupported("objects of upstream filters (upstream_filter_state)"))
            }
            "request" | "response" | "connection" | "upstream" | "source" | "destination" | "xds" => {
                Err(CelError::Group(name.to_owned()))
            }
            _ => Err(CelError::Name(name.to_owned())),
        }
    }

    fn attribute(&mut self, attribute: Attribute, test: bool) -> Node {
        attribute.note(&mut self.reads);
        if test { Node::HasAttribute(attribute) } else { Node::Attribute(attribute) }
    }

    /// `operand.field`, or whether it is there.
    fn select(&mut self, operand: &Expr, field: &str, test: bool, depth: usize) -> Result<Node, CelError> {
        if let Some(node) = self.named(operand, field, test)? {
            return Ok(node);
        }
        let of = self.node(operand, depth + 1)?;
        match of {
            Node::Attribute(Attribute::Headers(side)) => header(side, field, test),
            Node::Attribute(attribute @ Attribute::Metadata(_)) => match field {
                "filter_metadata" if test => Ok(Node::HasNamespaces(attribute)),
                "filter_metadata" => Ok(Node::Namespaces(attribute)),
                "typed_filter_metadata" => Err(CelError::Unsupported("messages (typed_filter_metadata)")),
                _ => Err(CelError::Attribute { root: operand.to_string(), name: field.to_owned() }),
            },
            of => {
                let key = Node::Constant(Value::Text(Cow::Owned(field.to_owned())));
                let both = Box::new((of, key));
                Ok(if test { Node::Has(both) } else { Node::Index(both) })
            }
        }
    }

    /// The attribute `name` of a group, if `of` is one.
    fn named(&mut self, of: &Expr, name: &str, test: bool) -> Result<Option<Node>, CelError> {
        let Expr::Ident(root) = of else { return Ok(None) };
        let root = root.strip_prefix('.').unwrap_or(root);
        let (root, name) = match attribute::find(root, name, self.options.place) {
            Some(Named::Known(attribute)) => return Ok(Some(self.attribute(attribute, test))),
            Some(Named::Refused(why)) => {
                return Err(CelError::Refused { root: root.to_owned(), name: name.to_owned(), why });
            }
            Some(Named::Unknown) => (root.to_owned(), name.to_owned()),
            None => return Ok(None),
        };
        Err(CelError::Attribute { root, name })
    }

    fn call(
        &mut self,
        function: &str,
        target: Option<&Expr>,
        args: &[Expr],
        depth: usize,
    ) -> Result<Node, CelError> {
        if target.is_none()
            && let Some(node) = self.operator(function, args, depth)?
        {
            return Ok(node);
        }
        let all = target.into_iter().chain(args);
        let count = all.clone().count();
        if function == "matches" && count == 2 {
            let mut all = all;
            let (Some(text), Some(pattern)) = (all.next(), all.next()) else {
                return Err(CelError::Operands(function.to_owned()));
            };
            return self.matches(text, pattern, depth);
        }
        let call = Call { name: function, on_target: target.is_some(), args: count };
        let found = Function::find(call, self.options.extras)
            .map_err(|why| CelError::Function { name: function.to_owned(), why })?;
        if let (Function::Get(_), Some(Expr::Literal(Literal::Text(zone)))) = (found, args.last())
            && instant::offset(zone).is_none()
        {
            let why = "names of time zones are not supported; write an offset, as '+01:00'";
            return Err(CelError::Function { name: function.to_owned(), why });
        }
        let args = all.map(|arg| self.node(arg, depth + 1)).collect::<Result<Vec<_>, _>>()?;
        Ok(folded(found, args))
    }

    fn matches(&mut self, text: &Expr, pattern: &Expr, depth: usize) -> Result<Node, CelError> {
        let Expr::Literal(Literal::Text(pattern)) = pattern else { return Err(CelError::VariableRegex) };
        let regex =
            (self.options.regex)(pattern).map_err(|why| CelError::Regex { pattern: pattern.clone(), why })?;
        Ok(Node::Matches(Box::new(self.node(text, depth + 1)?), regex))
    }

    /// An operator; `None` for a function.
    fn operator(&mut self, name: &str, args: &[Expr], depth: usize) -> Result<Option<Node>, CelError> {
        let add = Math::Add(self.options.extras.concat);
        let make: fn(Box<(Node, Node)>) -> Node = match name {
            "_&&_" => Node::And,
            "_||_" => Node::Or,
            "_==_" => |both| Node::Equal(both, false),
            "_!=_" => |both| Node::Equal(both, true),
            "_<_" => |both| Node::Order(both, Wanted::Less),
            "_<=_" => |both| Node::Order(both, Wanted::LessOrEqual),
            "_>_" => |both| Node::Order(both, Wanted::Greater),
            "_>=_" => |both| Node::Order(both, Wanted::GreaterOrEqual),
            "_+_" if add == Math::Add(true) => |both| Node::Math(both, Math::Add(true)),
            "_+_" => |both| Node::Math(both, Math::Add(false)),
            "_-_" => |both| Node::Math(both, Math::Subtract),
            "_*_" => |both| Node::Math(both, Math::Multiply),
            "_/_" => |both| Node::Math(both, Math::Divide),
            "_%_" => |both| Node::Math(both, Math::Remainder),
            "@in" | "_in_" | "in" => return self.within(args, depth).map(Some),
            "_[_]" => return self.index(args, depth).map(Some),
            "!_" | "-_" | "_?_:_" => return self.few(name, args, depth).map(Some),
            "@not_strictly_false" | "__not_strictly_false__" => return Err(CelError::Comprehension),
            _ => return Ok(None),
        };
        let [left, right] = args else { return Err(CelError::Operands(name.to_owned())) };
        Ok(Some(make(Box::new((self.node(left, depth + 1)?, self.node(right, depth + 1)?)))))
    }

    /// Operators with one operand or three.
    fn few(&mut self, name: &str, args: &[Expr], depth: usize) -> Result<Node, CelError> {
        let mut nodes = self.nodes(args, depth)?;
        let (last, before, first) = (nodes.pop(), nodes.pop(), nodes.pop());
        match (name, last, before, first) {
            ("!_", Some(one), None, None) => Ok(Node::Not(Box::new(one))),
            ("-_", Some(one), None, None) => Ok(match one.constant().map(negated) {
                Some(Ok(value)) => Node::Constant(value),
                _ => Node::Negate(Box::new(one)),
            }),
            ("_?_:_", Some(no), Some(yes), Some(condition)) if nodes.is_empty() => {
                Ok(Node::If(Box::new((condition, yes, no))))
            }
            _ => Err(CelError::Operands(name.to_owned())),
        }
    }

    /// `one in of`
    fn within(&mut self, args: &[Expr], depth: usize) -> Result<Node, CelError> {
        let [one, of] = args else { return Err(CelError::Operands("in".to_owned())) };
        if let Expr::Literal(Literal::Text(name)) = one
            && let Some(node) = self.named(of, name, true)?
        {
            return Ok(node);
        }
        Ok(Node::In(Box::new((self.node(one, depth + 1)?, self.node(of, depth + 1)?))))
    }

    /// `of[index]`
    fn index(&mut self, args: &[Expr], depth: usize) -> Result<Node, CelError> {
        let [of, index] = args else { return Err(CelError::Operands("[]".to_owned())) };
        if let Expr::Literal(Literal::Text(name)) = index
            && let Some(node) = self.named(of, name, false)?
        {
            return Ok(node);
        }
        match (self.node(of, depth + 1)?, index) {
            (Node::Attribute(Attribute::Headers(side)), Expr::Literal(Literal::Text(name))) => {
                header(side, name, false)
            }
            (Node::Attribute(Attribute::Metadata(_)), _) => {
                Err(CelError::Unsupported("fields of metadata by index (write metadata.filter_metadata)"))
            }
            (of, index) => Ok(Node::Index(Box::new((of, self.node(index, depth + 1)?)))),
        }
    }
}

fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::Text(text) => Value::Text(Cow::Owned(text.clone())),
        Literal::Bytes(bytes) => Value::Bytes(Cow::Owned(bytes.clone())),
    }
}

fn header(side: Side, name: &str, test: bool) -> Result<Node, CelError> {
    let name = HeaderRef::parse(name).ok_or_else(|| CelError::HeaderName(name.to_owned()))?;
    Ok(if test { Node::HasHeader(side, name) } else { Node::Header(side, name) })
}

/// The list of `nodes`: a constant if all of them are.
fn list(nodes: Vec<Node>) -> Node {
    let values: Option<Vec<Value<'static>>> = nodes.iter().map(|node| node.constant().cloned()).collect();
    match values {
        Some(values) => Node::Constant(Value::List(Arc::from(values))),
        None => Node::List(nodes.into()),
    }
}

/// The map of `entries`, likewise. One that is an error stays to be one when it is asked for.
fn map(entries: Vec<(Node, Node)>) -> Node {
    let pair = |(key, value): &(Node, Node)| Some((key.constant()?.clone(), value.constant()?.clone()));
    let values: Option<Vec<_>> = entries.iter().map(pair).collect();
    match values.map(|values| map_of(values, &Fuel::new())) {
        Some(Ok(value)) => Node::Constant(value),
        _ => Node::Map(entries.into()),
    }
}

/// A call, which is a constant if its arguments are: times and durations are not read for each request.
fn folded(function: Function, args: Vec<Node>) -> Node {
    let values: Option<Vec<Value<'static>>> = args.iter().map(|node| node.constant().cloned()).collect();
    let result = values.and_then(|values| function.call(&values, &Fuel::new()).ok()?.owned());
    match result {
        Some(value) => Node::Constant(value),
        None => Node::Call(function, args.into()),
    }
}
