//! Expressions of CEL (the Common Expression Language) over the attributes of requests and connections.
//!
//! Text is parsed by the crate `cel`; what comes parsed is taken as it is ([`ast::Expr`]). Both are compiled once, when
//! configuration is converted, into a tree that borrows what it reads: attributes are named by place, regular expressions
//! and constants are built, unknown names are errors. The interpreter of that crate is not used: it compiles regular expressions
//! for each call, boxes each value, and nothing bounds it.
//!
//! Semantics are those of Envoy 1.40, which are CEL's with less in them: no comprehensions (`all`, `exists`, `map`),
//! no concatenation of lists, and of texts only where configuration says so. So each part of an expression is evaluated once at
//! most. What is compared and made is counted beside that (`fault::Fuel`); who exceeds it gets an error. Errors never match.

pub mod ast;
mod attribute;
mod compile;
mod eval;
mod fault;
mod function;
mod instant;
mod lookup;
mod parse;
mod print;
mod strings;
mod value;

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use http::HeaderMap;
use regex::Regex;

use crate::matcher::HeadView;
use crate::metadata::Metadata;
use crate::stream::StreamInfo;

use ast::Expr;
use eval::{Cx, Node};
use value::Value;

pub use compile::CelError;

/// The longest text of an expression, in bytes.
pub const LONGEST: usize = 8 << 10;
/// As many parts an expression has at most.
pub const MOST_PARTS: usize = 2000;
/// So deep its parts are nested at most.
pub const DEEPEST: usize = 96;

/// Where an expression is asked: what is known there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In policies and match trees, before there is a response.
    Policy,
    /// In access logs, when all is over.
    Log,
}

/// `core.v3.CelExpressionConfig`: what an expression may do besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extras {
    /// `string()` makes texts of other values.
    pub conversion: bool,
    /// `+` joins texts.
    pub concat: bool,
    /// `lowerAscii`, `upperAscii`, `replace`, `split`, `join` and `trim`.
    pub functions: bool,
}

/// How an expression is compiled.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Where it is asked.
    pub place: Place,
    /// What it may do.
    pub extras: Extras,
    /// Compiles a regular expression, or says what is wrong with it.
    pub regex: &'a dyn Fn(&str) -> Result<Regex, String>,
}

/// What an expression reads, so that it can be kept until it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reads {
    /// Anything that may be another for another request of the same connection.
    pub per_request: bool,
    /// The request's head.
    pub request: bool,
    /// The response's head or trailers.
    pub response: bool,
    /// Metadata of routes, clusters and hosts.
    pub metadata: bool,
    /// Dynamic metadata.
    pub dynamic: bool,
    /// How long it took to get an upstream connection.
    pub attempts: bool,
}

/// What an expression sees.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The stream, and with it the connection.
    pub stream: &'a StreamInfo,
    /// The request's head.
    pub request: Option<HeadView<'a>>,
    /// The response's head.
    pub response: Option<HeadView<'a>>,
    /// The response's trailers.
    pub trailers: Option<&'a HeaderMap>,
    /// The route's metadata.
    pub route: Option<&'a Metadata>,
}

/// An expression, compiled.
#[derive(Debug, Clone)]
pub struct Program(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    root: Node,
    reads: Reads,
    text: Box<str>,
}

impl Program {
    /// Compiles the expression `text`.
    ///
    /// # Errors
    /// It is no expression, is too large, or asks for what is not there.
    pub fn parse(text: &str, options: &Options<'_>) -> Result<Self, CelError> {
        Self::compile(&parse::parse(text)?, options)
    }

    /// Compiles an expression that was parsed elsewhere.
    ///
    /// # Errors
    /// It is too large, or asks for what is not there.
    pub fn compile(expr: &Expr, options: &Options<'_>) -> Result<Self, CelError> {
        let (root, reads) = compile::compile(expr, options)?;
        Ok(Self(Arc::new(Compiled { root, reads, text: expr.to_string().into() })))
    }

    /// What it reads.
    pub fn reads(&self) -> Reads {
        self.0.reads
    }

    /// Whether it is true of `view`. An error, and a value that is no truth value, are not.
    pub fn is_true(&self, view: &View<'_>) -> bool {
        self.truth(view) == Some(true)
    }

    /// Its truth value for `view`; `None` for an error and for any other value.
    pub fn truth(&self, view: &View<'_>) -> Option<bool> {
        match self.0.root.eval(&Cx::new(*view)) {
            Ok(Value::Bool(truth)) => Some(truth),
            _ => None,
        }
    }
}

impl Display for Program {
    /// The expression, as it was understood.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

/// Parses `text` without compiling it.
///
/// # Errors
/// It is no expression, or is too large.
pub fn parse(text: &str) -> Result<Expr, CelError> {
    parse::parse(text)
}

#[cfg(test)]
mod tests;
