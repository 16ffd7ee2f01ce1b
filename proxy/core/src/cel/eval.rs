//! Expressions, compiled, and what they come to.

use std::cmp::Ordering;
use std::sync::Arc;

use regex::Regex;

use super::View;
use super::attribute::{Attribute, Side};
use super::fault::{Fault, Fuel};
use super::function::Function;
use super::instant::bounded;
use super::value::{Kind, Value, equal, order};
use super::{lookup, strings};
use crate::matcher::HeaderRef;

/// What one evaluation has.
#[derive(Debug)]
pub(super) struct Cx<'a> {
    view: View<'a>,
    fuel: Fuel,
}

impl<'a> Cx<'a> {
    pub(super) const fn new(view: View<'a>) -> Self {
        Self { view, fuel: Fuel::new() }
    }
}

/// A part of an expression.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Constant(Value<'static>),
    Attribute(Attribute),
    /// Whether an attribute is there.
    HasAttribute(Attribute),
    /// The value of one header.
    Header(Side, HeaderRef),
    HasHeader(Side, HeaderRef),
    /// `filter_metadata` of metadata.
    Namespaces(Attribute),
    HasNamespaces(Attribute),
    /// Of a list or a map.
    Index(Box<(Node, Node)>),
    /// Whether a map has a key.
    Has(Box<(Node, Node)>),
    List(Box<[Node]>),
    Map(Box<[(Node, Node)]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<(Node, Node)>),
    Or(Box<(Node, Node)>),
    If(Box<(Node, Node, Node)>),
    /// Equal, or not equal.
    Equal(Box<(Node, Node)>, bool),
    Order(Box<(Node, Node)>, Wanted),
    Math(Box<(Node, Node)>, Math),
    In(Box<(Node, Node)>),
    Matches(Box<Node>, Regex),
    Call(Function, Box<[Node]>),
}

/// How two values are to be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What is done with two numbers, or two others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Math {
    /// Texts too, where the flag says so.
    Add(bool),
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Node {
    /// Its value.
    pub(super) fn eval<'a>(&'a self, cx: &Cx<'a>) -> Result<Value<'a>, Fault> {
        cx.fuel.burn(1)?;
        let bool = |truth: bool| Ok(Value::Bool(truth));
        match self {
            Self::Constant(value) => Ok(value.borrowed()),
            Self::Attribute(attribute) => attribute.value(&cx.view).ok_or(Fault::NoSuchKey),
            Self::HasAttribute(attribute) => bool(attribute.value(&cx.view).is_some()),
            Self::Header(side, name) => side.header(&cx.view, name).ok_or(Fault::NoSuchKey),
            Self::HasHeader(side, name) => bool(side.header(&cx.view, name).is_some()),
            Self::Namespaces(attribute) => namespaces(*attribute, cx),
            Self::HasNamespaces(attribute) => bool(lookup::size(&namespaces(*attribute, cx)?, &cx.fuel)? > 0),
            Self::Index(of) => {
                let (of, index) = &**of;
                lookup::at(&of.eval(cx)?, &index.eval(cx)?, &cx.fuel)
            }
            Self::Has(of) => {
                let (of, key) = &**of;
                bool(lookup::get(&of.eval(cx)?, &key.eval(cx)?, &cx.fuel)?.is_some())
            }
            Self::List(elements) => all(elements, cx).map(|values| Value::List(Arc::from(values))),
            Self::Map(entries) => map(entries, cx),
            Self::Not(one) => bool(!one.truth(cx)?),
            Self::Negate(one) => negated(&one.eval(cx)?),
            Self::And(both) => both_sides(both, false, cx),
            Self::Or(both) => both_sides(both, true, cx),
            Self::If(parts) => {
                let (condition, yes, no) = &**parts;
                if condition.truth(cx)? { yes.eval(cx) } else { no.eval(cx) }
            }
            Self::Equal(both, negated) => {
                let (left, right) = &**both;
                bool(equal(&left.eval(cx)?, &right.eval(cx)?, &cx.fuel)? != *negated)
            }
            Self::Order(both, wanted) => {
                let (left, right) = &**both;
                bool(wanted.holds(order(&left.eval(cx)?, &right.eval(cx)?)?))
            }
            Self::Math(both, math) => {
                let (left, right) = &**both;
                math.of(&left.eval(cx)?, &right.eval(cx)?, &cx.fuel)
            }
            Self::In(both) => {
                let (one, of) = &**both;
                bool(lookup::contains(&of.eval(cx)?, &one.eval(cx)?, &cx.fuel)?)
            }
            Self::Matches(text, regex) => match text.eval(cx)? {
                Value::Text(text) => {
                    cx.fuel.burn(text.len() / 16)?;
                    bool(regex.is_match(&text))
                }
                _ => Err(Fault::NoOverload),
            },
            Self::Call(function, args) => function.call(&all(args, cx)?, &cx.fuel),
        }
    }

    fn truth<'a>(&'a self, cx: &Cx<'a>) -> Result<bool, Fault> {
        match self.eval(cx)? {
            Value::Bool(truth) => Ok(truth),
            _ => Err(Fault::NoOverload),
        }
    }

    /// The value that it is, if it is one.
    pub(super) fn constant(&self) -> Option<&Value<'static>> {
        match self {
            Self::Constant(value) => Some(value),
            _ => None,
        }
    }
}

impl Wanted {
    fn holds(self, order: Option<Ordering>) -> bool {
        order.is_some_and(|order| match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        })
    }
}

impl Math {
    /// The result. Numbers of different types do not mix.
    fn of<'a>(self, a: &Value<'a>, b: &Value<'a>, fuel: &Fuel) -> Result<Value<'a>, Fault> {
        match (a, b) {
            (Value::Int(a), Value::Int(b)) => {
                let (a, b) = (*a, *b);
                let result = match self {
                    Self::Add(_) => a.checked_add(b),
                    Self::Subtract => a.checked_sub(b),
                    Self::Multiply => a.checked_mul(b),
                    Self::Divide => a.checked_div(b),
                    Self::Remainder => a.checked_rem(b),
                };
                result.map(Value::Int).ok_or(Fault::Range)
            }
            (Value::Uint(a), Value::Uint(b)) => {
                let (a, b) = (*a, *b);
                let result = match self {
                    Self::Add(_) => a.checked_add(b),
                    Self::Subtract => a.checked_sub(b),
                    Self::Multiply => a.checked_mul(b),
                    Self::Divide => a.checked_div(b),
                    Self::Remainder => a.checked_rem(b),
                };
                result.map(Value::Uint).ok_or(Fault::Range)
            }
            (Value::Double(a), Value::Double(b)) => Ok(Value::Double(match self {
                Self::Add(_) => a + b,
                Self::Subtract => a - b,
                Self::Multiply => a * b,
                Self::Divide => a / b,
                Self::Remainder => return Err(Fault::NoOverload),
            })),
            (Value::Text(a), Value::Text(b)) if self == Self::Add(true) => strings::concat(a, b, fuel),
            (Value::Bytes(a), Value::Bytes(b)) if self == Self::Add(true) => {
                fuel.text(a.len().saturating_add(b.len()))?;
                Ok(Value::Bytes([&**a, &**b].concat().into()))
            }
            _ => self.of_times(a, b),
        }
    }

    fn of_times<'a>(self, a: &Value<'_>, b: &Value<'_>) -> Result<Value<'a>, Fault> {
        let sum = |a: &i128, b: &i128| a.checked_add(*b).ok_or(Fault::Range);
        let difference = |a: &i128, b: &i128| a.checked_sub(*b).ok_or(Fault::Range);
        match (self, a, b) {
            (Self::Add(_), Value::Timestamp(time), Value::Duration(by))
            | (Self::Add(_), Value::Duration(by), Value::Timestamp(time)) => {
                sum(time, by).map(Value::Timestamp)
            }
            (Self::Add(_), Value::Duration(a), Value::Duration(b)) => {
                bounded(sum(a, b)?).map(Value::Duration)
            }
            (Self::Subtract, Value::Timestamp(time), Value::Duration(by)) => {
                difference(time, by).map(Value::Timestamp)
            }
            (Self::Subtract, Value::Timestamp(a), Value::Timestamp(b))
            | (Self::Subtract, Value::Duration(a), Value::Duration(b)) => {
                bounded(difference(a, b)?).map(Value::Duration)
            }
            _ => Err(Fault::NoOverload),
        }
    }
}

/// `&&` and `||`: one side that decides is enough, whatever becomes of the other.
fn both_sides<'a>(both: &'a (Node, Node), decides: bool, cx: &Cx<'a>) -> Result<Value<'a>, Fault> {
    let left = both.0.truth(cx);
    if left == Ok(decides) {
        return Ok(Value::Bool(decides));
    }
    let right = both.1.truth(cx);
    if right == Ok(decides) {
        return Ok(Value::Bool(decides));
    }
    left.and(right).map(Value::Bool)
}

fn all<'a>(nodes: &'a [Node], cx: &Cx<'a>) -> Result<Vec<Value<'a>>, Fault> {
    nodes.iter().map(|node| node.eval(cx)).collect()
}

fn map<'a>(entries: &'a [(Node, Node)], cx: &Cx<'a>) -> Result<Value<'a>, Fault> {
    let entries = entries.iter().map(|(key, value)| Ok((key.eval(cx)?, value.eval(cx)?)));
    map_of(entries.collect::<Result<_, Fault>>()?, &cx.fuel)
}

/// A map; that a key is there twice, or is of no type for keys, is an error.
pub(super) fn map_of<'a>(entries: Vec<(Value<'a>, Value<'a>)>, fuel: &Fuel) -> Result<Value<'a>, Fault> {
    for (i, (key, _)) in entries.iter().enumerate() {
        if !matches!(key.kind(), Kind::Bool | Kind::Int | Kind::Uint | Kind::Text) {
            return Err(Fault::NoOverload);
        }
        for (known, _) in entries.iter().take(i) {
            if equal(known, key, fuel)? {
                return Err(Fault::Invalid);
            }
        }
    }
    Ok(Value::Map(Arc::from(entries)))
}

pub(super) fn negated<'a>(value: &Value<'_>) -> Result<Value<'a>, Fault> {
    match value {
        Value::Int(number) => number.checked_neg().map(Value::Int).ok_or(Fault::Range),
        Value::Double(number) => Ok(Value::Double(-number)),
        _ => Err(Fault::NoOverload),
    }
}

fn namespaces<'a>(attribute: Attribute, cx: &Cx<'a>) -> Result<Value<'a>, Fault> {
    match attribute.value(&cx.view) {
        Some(Value::Metadata(metadata)) => Ok(Value::Namespaces(metadata)),
        Some(_) => Err(Fault::NoOverload),
        None => Err(Fault::NoSuchKey),
    }
}
