//! Tables for people: columns aligned, three spaces between, no colour but on a terminal.

use std::io::{self, Write};

/// How a cell looks on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    #[default]
    Plain,
    Good,
    Bad,
    Odd,
    Head,
    Faint,
}

impl Style {
    /// A text in this style.
    pub(super) fn paint(self, text: &str, color: bool) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => "32",
            Self::Bad => "31",
            Self::Odd => "33",
            Self::Head => "1",
            Self::Faint => "2",
        };
        if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// How a condition's status looks.
    pub(super) fn of_status(text: &str) -> Self {
        match text {
            "True" => Self::Good,
            "False" => Self::Bad,
            "" | "-" => Self::Plain,
            _ => Self::Odd,
        }
    }
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) style: Style,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Style::Plain)
    }
}

/// A table. Its columns are as wide as what was there when it was first printed.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<Cell>>,
    widths: Vec<usize>,
    printed: usize,
    headless: bool,
}

impl Table {
    pub(super) fn new<S: AsRef<str>>(head: &[S]) -> Self {
        let head = head.iter().map(|it| it.as_ref().to_owned()).collect();
        Self { head, ..Self::default() }
    }

    /// Leaves the first line out.
    pub(super) fn headless(mut self, headless: bool) -> Self {
        self.headless = headless;
        self
    }

    pub(super) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prints the rows that were not printed yet.
    pub(super) fn print(&mut self, out: &mut dyn Write, color: bool) -> io::Result<()> {
        if self.widths.is_empty() {
            let width = |column: usize| {
                let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| count(&cell.text));
                let head = self.head.get(column).filter(|_| !self.headless).map_or(0, |it| count(it));
                cells.max().unwrap_or(0).max(head)
            };
            self.widths = (0..self.head.len()).map(width).collect();
            if !self.headless {
                let head: Vec<_> = self.head.iter().map(|it| Cell::new(it.as_str(), Style::Head)).collect();
                self.line(&head, out, color)?;
            }
        }
        let new = std::mem::take(&mut self.rows);
        for row in &new {
            self.line(row, out, color)?;
            self.printed += 1;
        }
        Ok(())
    }

    fn line(&self, row: &[Cell], out: &mut dyn Write, color: bool) -> io::Result<()> {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            line.push_str(&cell.style.paint(&cell.text, color));
            if index + 1 < row.len() {
                let width = self.widths.get(index).copied().unwrap_or(0);
                let pad = width.saturating_sub(count(&cell.text)) + 3;
                line.extend(std::iter::repeat_n(' ', pad));
            }
        }
        writeln!(out, "{}", line.trim_end())
    }
}

fn count(text: &str) -> usize {
    text.chars().count()
}

/// A duration as kubectl writes ages: the two largest units while they matter.
pub(super) fn age(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: &str, small: i64, lesser: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{lesser}") }
    };
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ => two(days / 365, "y", days % 365, "d"),
    }
}
