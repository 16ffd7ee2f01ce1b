//! What goes wrong while an expression is evaluated, and what it may cost.

use std::cell::Cell;

/// As much an evaluation may do: parts, comparisons, and sixteen bytes of text that it makes, count one each.
const MOST: u32 = 200_000;
/// The longest text, and the longest list, that an evaluation makes.
pub(super) const LONGEST_TEXT: usize = 64 << 10;

/// Why there is no value. What it was about is not told: nobody reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// What is asked for is not there.
    NoSuchKey,
    /// The function or the operator is not for such values.
    NoOverload,
    /// A number or a time out of its range, a division by zero.
    Range,
    /// A text that is not what it should be.
    Invalid,
    /// It costs too much.
    Cost,
}

/// What is left of what an evaluation may do.
#[derive(Debug)]
pub(super) struct Fuel(Cell<u32>);

impl Fuel {
    pub(super) const fn new() -> Self {
        Self(Cell::new(MOST))
    }

    /// Takes `amount` of it.
    pub(super) fn burn(&self, amount: usize) -> Result<(), Fault> {
        let amount = u32::try_from(amount).map_err(|_| Fault::Cost)?;
        self.0.set(self.0.get().checked_sub(amount).ok_or(Fault::Cost)?);
        Ok(())
    }

    /// Takes what a text of `len` bytes costs.
    pub(super) fn text(&self, len: usize) -> Result<(), Fault> {
        if len > LONGEST_TEXT {
            return Err(Fault::Cost);
        }
        self.burn(len / 16 + 1)
    }
}
