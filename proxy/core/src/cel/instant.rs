//! Times and durations: their texts and their parts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Datelike as _, FixedOffset, Timelike as _, Utc};

use super::fault::Fault;

pub(super) const SECOND: i128 = 1_000_000_000;
/// The longest duration of protobuf, in seconds.
const LONGEST: i128 = 315_576_000_000;

/// A part of a time, or of a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    FullYear,
    /// From 0.
    Month,
    /// From 1.
    Date,
    /// From 0.
    DayOfMonth,
    /// Sunday is 0.
    DayOfWeek,
    /// From 0.
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

impl Part {
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "getFullYear" => Self::FullYear,
            "getMonth" => Self::Month,
            "getDate" => Self::Date,
            "getDayOfMonth" => Self::DayOfMonth,
            "getDayOfWeek" => Self::DayOfWeek,
            "getDayOfYear" => Self::DayOfYear,
            "getHours" => Self::Hours,
            "getMinutes" => Self::Minutes,
            "getSeconds" => Self::Seconds,
            "getMilliseconds" => Self::Milliseconds,
            _ => return None,
        })
    }

    /// The part of a time, as a clock shows it that is `offset` ahead of UTC.
    pub(super) fn of_time(self, nanos: i128, offset: FixedOffset) -> Result<i64, Fault> {
        let seconds = i64::try_from(nanos.div_euclid(SECOND)).map_err(|_| Fault::Range)?;
        let rest = u32::try_from(nanos.rem_euclid(SECOND)).map_err(|_| Fault::Range)?;
        let time = DateTime::<Utc>::from_timestamp(seconds, rest).ok_or(Fault::Range)?;
        // A date at the edge of the calendar may have no such clock.
        let time = time.naive_utc().checked_add_offset(offset).ok_or(Fault::Range)?;
        Ok(i64::from(match self {
            Self::FullYear => return Ok(i64::from(time.year())),
            Self::Month => time.month0(),
            Self::Date => time.day(),
            Self::DayOfMonth => time.day0(),
            Self::DayOfWeek => time.weekday().num_days_from_sunday(),
            Self::DayOfYear => time.ordinal0(),
            Self::Hours => time.hour(),
            Self::Minutes => time.minute(),
            Self::Seconds => time.second(),
            Self::Milliseconds => time.nanosecond() / 1_000_000,
        }))
    }

    /// A duration in this unit, without its fraction; of milliseconds those beyond the seconds.
    pub(super) fn of_duration(self, nanos: i128) -> Result<i64, Fault> {
        let whole = match self {
            Self::Hours => nanos / (3600 * SECOND),
            Self::Minutes => nanos / (60 * SECOND),
            Self::Seconds => nanos / SECOND,
            Self::Milliseconds => nanos % SECOND / 1_000_000,
            _ => return Err(Fault::NoOverload),
        };
        i64::try_from(whole).map_err(|_| Fault::Range)
    }
}

/// The offset that a text names: `UTC`, `+01:00`, `-02:30`, `02:00`. Names of zones need a data base that the proxy does not have.
pub(super) fn offset(text: &str) -> Option<FixedOffset> {
    if text == "UTC" {
        return FixedOffset::east_opt(0);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |text: &str, most: i32| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i32>().ok().filter(|number| digits && *number <= most)
    };
    FixedOffset::east_opt(sign * (number(hours, 23)? * 3600 + number(minutes, 59)? * 60))
}

/// A time by RFC 3339.
pub(super) fn timestamp(text: &str) -> Result<i128, Fault> {
    // The library takes a blank between date and time.
    if text.contains(' ') {
        return Err(Fault::Invalid);
    }
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| Fault::Invalid)?;
    Ok(i128::from(time.timestamp()) * SECOND + i128::from(time.timestamp_subsec_nanos()))
}

/// A duration as `1h30m`, `1.5s`, `-90s`, `0`.
pub(super) fn duration(text: &str) -> Result<i128, Fault> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(Fault::Invalid);
    }
    let mut sum = 0_i128;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(Fault::Invalid)?;
        let (number, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        sum = sum.checked_add(scaled(number, nanos(unit)?)?).ok_or(Fault::Range)?;
        rest = after;
    }
    bounded(sign * sum)
}

/// `nanos`, if protobuf has a duration for it.
pub(super) fn bounded(nanos: i128) -> Result<i128, Fault> {
    if nanos.abs() > LONGEST * SECOND { Err(Fault::Range) } else { Ok(nanos) }
}

/// A duration's nanoseconds.
pub(super) fn nanos_of(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// A time's nanoseconds since the epoch.
pub(super) fn since_epoch(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => nanos_of(after),
        Err(before) => -nanos_of(before.duration()),
    }
}

fn nanos(unit: &str) -> Result<i128, Fault> {
    Ok(match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => 3600 * SECOND,
        _ => return Err(Fault::Invalid),
    })
}

/// `number`, which may have a fraction, times `unit`.
fn scaled(number: &str, unit: i128) -> Result<i128, Fault> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(Fault::Invalid);
    }
    let mut sum = 0_i128;
    for digit in whole.bytes() {
        sum = sum * 10 + i128::from(digit - b'0');
        if sum > LONGEST * SECOND {
            return Err(Fault::Range);
        }
    }
    sum = sum.checked_mul(unit).ok_or(Fault::Range)?;
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        sum += place * i128::from(digit - b'0');
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, nanos) in [
            ("90s", Ok(90 * SECOND)),
            ("1h30m", Ok(5400 * SECOND)),
            ("-1.5s", Ok(-3 * SECOND / 2)),
            (".5s", Ok(SECOND / 2)),
            ("0", Ok(0)),
            ("+5us", Ok(5000)),
            ("", Err(Fault::Invalid)),
            ("1", Err(Fault::Invalid)),
            ("1d", Err(Fault::Invalid)),
            ("1 s", Err(Fault::Invalid)),
            ("1.2.3s", Err(Fault::Invalid)),
            ("inf", Err(Fault::Invalid)),
            ("315576000001s", Err(Fault::Range)),
            ("99999999999999999999999999999999999999999999s", Err(Fault::Range)),
        ] {
            assert_eq!(duration(text), nanos, "{text}");
        }
    }

    #[test]
    fn offsets_are_clocks_and_no_zones() {
        assert_eq!(offset("+01:00").map(|offset| offset.local_minus_utc()), Some(3600));
        assert_eq!(offset("-02:30").map(|offset| offset.local_minus_utc()), Some(-9000));
        assert_eq!(offset("02:00").map(|offset| offset.local_minus_utc()), Some(7200));
        assert_eq!(offset("UTC").map(|offset| offset.local_minus_utc()), Some(0));
        for text in ["Europe/Berlin", "", "+1:00", "+24:00", "+01:60", "++1:00", "é:00"] {
            assert_eq!(offset(text), None, "{text}");
        }
    }
}
