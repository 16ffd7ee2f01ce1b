//! Rules on numbers, booleans and enums.

use std::fmt;

use prost_reflect::{Kind as Type, Value};

use crate::pb::validate::{EnumRules, field_rules};

/// How many values of an enum an error message lists.
const LISTED_VALUES: usize = 24;

/// Bounds on something that has an order.
pub(super) struct Limits<T> {
    pub(super) equal: Option<T>,
    pub(super) lt: Option<T>,
    pub(super) lte: Option<T>,
    pub(super) gt: Option<T>,
    pub(super) gte: Option<T>,
    pub(super) one_of: Vec<T>,
    pub(super) none_of: Vec<T>,
}

/// A span of time in nanoseconds, shown in seconds.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(super) struct Seconds(pub(super) i128);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, nanos) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        let (whole, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        if fraction == 0 {
            return write!(f, "{sign}{whole}s");
        }
        write!(f, "{sign}{whole}.{}s", format!("{fraction:09}").trim_end_matches('0'))
    }
}

/// Checks the rules that [`Limits`] holds.
pub(super) fn ordered<T: PartialOrd + fmt::Display>(value: &T, limits: &Limits<T>) -> Result<(), String> {
    if let Some(equal) = &limits.equal
        && value != equal
    {
        return Err(format!("value must equal {equal}"));
    }
    let above = |it: &T, inclusive: bool| if inclusive { value >= it } else { value > it };
    let below = |it: &T, inclusive: bool| if inclusive { value <= it } else { value < it };
    let low = limits.gt.as_ref().map(|it| (it, false)).or(limits.gte.as_ref().map(|it| (it, true)));
    let high = limits.lt.as_ref().map(|it| (it, false)).or(limits.lte.as_ref().map(|it| (it, true)));
    match (low, high) {
        (Some((low, low_in)), Some((high, high_in))) => {
            let brackets = (if low_in { '[' } else { '(' }, if high_in { ']' } else { ')' });
            if high > low {
                if !(above(low, low_in) && below(high, high_in)) {
                    return Err(format!(
                        "value must be inside range {}{low}, {high}{}",
                        brackets.0, brackets.1
                    ));
                }
            } else if !(above(low, low_in) || below(high, high_in)) {
                // Bounds that cross name what is forbidden between them.
                let brackets = (if high_in { '(' } else { '[' }, if low_in { ')' } else { ']' });
                return Err(format!("value must be outside range {}{high}, {low}{}", brackets.0, brackets.1));
            }
        }
        (Some((low, inclusive)), None) if !above(low, inclusive) => {
            return Err(format!(
                "value must be greater than {}{low}",
                if inclusive { "or equal to " } else { "" }
            ));
        }
        (None, Some((high, inclusive))) if !below(high, inclusive) => {
            return Err(format!(
                "value must be less than {}{high}",
                if inclusive { "or equal to " } else { "" }
            ));
        }
        _ => {}
    }
    if !limits.one_of.is_empty() && !limits.one_of.contains(value) {
        return Err(format!("value must be in list [{}]", join(&limits.one_of)));
    }
    if limits.none_of.contains(value) {
        return Err(format!("value must not be in list [{}]", join(&limits.none_of)));
    }
    Ok(())
}

fn join<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// Checks a number or a boolean.
pub(super) fn check(value: &Value, rules: &field_rules::Type) -> Result<(), String> {
    use field_rules::Type as Rules;
    /// The rule messages of all number types have the same fields.
    macro_rules! number {
        ($value:expr, $rules:expr) => {{
            if $rules.ignore_empty() && !crate::IsSet::is_set($value) {
                return Ok(());
            }
            ordered(
                $value,
                &Limits {
                    equal: $rules.r#const,
                    lt: $rules.lt,
                    lte: $rules.lte,
                    gt: $rules.gt,
                    gte: $rules.gte,
                    one_of: $rules.r#in.clone(),
                    none_of: $rules.not_in.clone(),
                },
            )
        }};
    }
    match (rules, value) {
        (Rules::Float(rules), Value::F32(value)) => number!(value, rules),
        (Rules::Double(rules), Value::F64(value)) => number!(value, rules),
        (Rules::Int32(rules), Value::I32(value)) => number!(value, rules),
        (Rules::Sint32(rules), Value::I32(value)) => number!(value, rules),
        (Rules::Sfixed32(rules), Value::I32(value)) => number!(value, rules),
        (Rules::Int64(rules), Value::I64(value)) => number!(value, rules),
        (Rules::Sint64(rules), Value::I64(value)) => number!(value, rules),
        (Rules::Sfixed64(rules), Value::I64(value)) => number!(value, rules),
        (Rules::Uint32(rules), Value::U32(value)) => number!(value, rules),
        (Rules::Fixed32(rules), Value::U32(value)) => number!(value, rules),
        (Rules::Uint64(rules), Value::U64(value)) => number!(value, rules),
        (Rules::Fixed64(rules), Value::U64(value)) => number!(value, rules),
        (Rules::Bool(rules), Value::Bool(value)) => match rules.r#const {
            Some(equal) if equal != *value => Err(format!("value must equal {equal}")),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Checks an enum value.
pub(super) fn enumeration(value: i32, rules: &EnumRules, kind: &Type) -> Result<(), String> {
    let Type::Enum(desc) = kind else { return Ok(()) };
    let name =
        |number: i32| desc.get_value(number).map_or_else(|| number.to_string(), |it| it.name().to_owned());
    let names = |numbers: &[i32]| numbers.iter().map(|&number| name(number)).collect::<Vec<_>>().join(", ");
    if let Some(equal) = rules.r#const
        && equal != value
    {
        return Err(format!("value must equal {}", name(equal)));
    }
    if rules.defined_only() && desc.get_value(value).is_none() {
        let known: Vec<String> = desc.values().take(LISTED_VALUES).map(|it| it.name().to_owned()).collect();
        return Err(format!(
            "value must be one of the defined enum values ({}), got {value}",
            known.join(", ")
        ));
    }
    if !rules.r#in.is_empty() && !rules.r#in.contains(&value) {
        return Err(format!("value must be in list [{}], got {}", names(&rules.r#in), name(value)));
    }
    if rules.not_in.contains(&value) {
        return Err(format!("value must not be in list [{}]", names(&rules.not_in)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits<i32> {
        Limits {
            equal: None,
            lt: None,
            lte: None,
            gt: None,
            gte: None,
            one_of: Vec::new(),
            none_of: Vec::new(),
        }
    }

    fn says(value: i32, limits: &Limits<i32>) -> String {
        ordered(&value, limits).err().unwrap_or_default()
    }

    #[test]
    fn bounds() {
        let inside = Limits { gte: Some(1), lt: Some(5), ..limits() };
        assert_eq!(says(0, &inside), "value must be inside range [1, 5)");
        assert_eq!(says(5, &inside), "value must be inside range [1, 5)");
        assert_eq!(says(1, &inside), "");
        let outside = Limits { gt: Some(5), lte: Some(1), ..limits() };
        assert_eq!(says(3, &outside), "value must be outside range (1, 5]");
        assert_eq!(says(1, &outside), "");
        assert_eq!(says(6, &outside), "");
        assert_eq!(says(3, &Limits { gt: Some(3), ..limits() }), "value must be greater than 3");
        assert_eq!(says(3, &Limits { gte: Some(4), ..limits() }), "value must be greater than or equal to 4");
        assert_eq!(says(3, &Limits { lte: Some(2), ..limits() }), "value must be less than or equal to 2");
        assert_eq!(says(3, &Limits { equal: Some(2), ..limits() }), "value must equal 2");
        assert_eq!(says(3, &Limits { one_of: vec![1, 2], ..limits() }), "value must be in list [1, 2]");
        assert_eq!(says(3, &Limits { none_of: vec![3], ..limits() }), "value must not be in list [3]");
    }

    #[test]
    fn nan_is_inside_nothing() {
        let rules = Limits {
            gte: Some(0.0),
            lte: Some(1.0),
            equal: None,
            lt: None,
            gt: None,
            one_of: vec![],
            none_of: vec![],
        };
        assert!(ordered(&f64::NAN, &rules).is_err());
    }

    #[test]
    fn seconds_read_well() {
        assert_eq!(Seconds(1_500_000_000).to_string(), "1.5s");
        assert_eq!(Seconds(-1_000_000).to_string(), "-0.001s");
        assert_eq!(Seconds(0).to_string(), "0s");
    }
}
