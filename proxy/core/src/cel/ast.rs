//! Expressions as a tree, wherever they come from.

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// A literal.
    Literal(Literal),
    /// A name.
    Ident(String),
    /// A field of something, or whether it is there (`has`).
    Select {
        /// Of what.
        operand: Box<Expr>,
        /// Its name.
        field: String,
        /// Whether it is asked for its presence alone.
        test: bool,
    },
    /// A function or an operator; operators have the names that CEL's parsers give them (`_==_`, `@in`).
    Call {
        /// Its name.
        function: String,
        /// What it is called on, if it is called so.
        target: Option<Box<Expr>>,
        /// Its arguments.
        args: Vec<Expr>,
    },
    /// A list.
    List(Vec<Expr>),
    /// A map.
    Map(Vec<(Expr, Expr)>),
}

/// A literal.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// A truth value.
    Bool(bool),
    /// `1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.0`
    Double(f64),
    /// `'text'`
    Text(String),
    /// `b'bytes'`
    Bytes(Vec<u8>),
}
