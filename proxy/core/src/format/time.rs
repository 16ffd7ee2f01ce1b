//! Wall-clock times: ISO 8601 without help, the rest by strftime.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::format::StrftimeItems;
use chrono::{DateTime, Local, Utc};

/// A time's format. Empty: `2026-11-22T10:11:12.345Z`.
#[derive(Debug, Clone)]
pub(super) enum TimeFormat {
    /// ISO 8601 with milliseconds, UTC.
    Iso,
    /// strftime pieces; `local` says in which zone.
    Custom { pieces: Box<[TimePiece]>, local: bool },
}

#[derive(Debug, Clone)]
pub(super) enum TimePiece {
    Strftime(Box<str>),
    /// `%3f`: that many digits of the second's fraction.
    Fraction(usize),
    /// `%s`, `%3s`, ...: seconds since the epoch with that many more digits.
    Epoch(usize),
}

impl TimeFormat {
    pub(super) fn parse(format: &str, local: bool) -> Self {
        if format.is_empty() && !local {
            return Self::Iso;
        }
        let format = if format.is_empty() { "%Y-%m-%dT%H:%M:%S.%3f%z" } else { format };
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = format;
        while let Some(c) = rest.chars().next() {
            let (piece, len) = special(rest);
            if let Some(piece) = piece {
                if !plain.is_empty() {
                    pieces.push(TimePiece::Strftime(std::mem::take(&mut plain).into()));
                }
                pieces.push(piece);
                rest = &rest[len..];
            } else {
                plain.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        if !plain.is_empty() {
            // An item that chrono does not know prints as it is instead of failing at each write.
            let known = StrftimeItems::new(&plain).all(|item| item != chrono::format::Item::Error);
            pieces.push(TimePiece::Strftime(if known { plain } else { plain.replace('%', "%%") }.into()));
        }
        Self::Custom { pieces: pieces.into(), local }
    }

    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (pieces, local) = match self {
            Self::Iso => return iso(since.as_secs(), since.subsec_millis(), out),
            Self::Custom { pieces, local } => (pieces, *local),
        };
        let utc: DateTime<Utc> = time.into();
        let mut text = String::new();
        for piece in pieces {
            let _ = match piece {
                TimePiece::Strftime(format) if local => {
                    write!(text, "{}", utc.with_timezone(&Local).format(format))
                }
                TimePiece::Strftime(format) => write!(text, "{}", utc.format(format)),
                TimePiece::Fraction(digits) => digits_of(since.subsec_nanos(), *digits, &mut text),
                TimePiece::Epoch(digits) => write!(text, "{}", since.as_secs())
                    .and_then(|()| digits_of(since.subsec_nanos(), *digits, &mut text)),
            };
        }
        out.extend_from_slice(text.as_bytes());
    }
}

/// The special piece at the start of `text` and its length, if there is one.
fn special(text: &str) -> (Option<TimePiece>, usize) {
    let bytes = text.as_bytes();
    match bytes {
        [b'%', b's', ..] => (Some(TimePiece::Epoch(0)), 2),
        [b'%', b'f', ..] => (Some(TimePiece::Fraction(9)), 2),
        [b'%', digit @ b'1'..=b'9', b's', ..] => (Some(TimePiece::Epoch(usize::from(digit - b'0'))), 3),
        [b'%', digit @ b'1'..=b'9', b'f', ..] => (Some(TimePiece::Fraction(usize::from(digit - b'0'))), 3),
        _ => (None, 0),
    }
}

fn digits_of(nanos: u32, digits: usize, out: &mut String) -> std::fmt::Result {
    let all = format!("{nanos:09}");
    out.write_str(all.get(..digits).unwrap_or(&all))
}

/// ISO 8601 by hand: it is in every access log line. Days to dates after Howard Hinnant's civil calendar.
fn iso(seconds: u64, millis: u32, out: &mut Vec<u8>) {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    put(&mut text[0..4], year);
    put(&mut text[5..7], month);
    put(&mut text[8..10], day);
    put(&mut text[11..13], rest / 3600);
    put(&mut text[14..16], rest / 60 % 60);
    put(&mut text[17..19], rest % 60);
    put(&mut text[20..23], u64::from(millis));
    out.extend_from_slice(&text);
}

fn put(slot: &mut [u8], mut number: u64) {
    for byte in slot.iter_mut().rev() {
        *byte = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
