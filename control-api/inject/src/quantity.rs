//! Amounts as Kubernetes writes them (`100m`, `64Mi`).

/// Reads an amount; `None`: it is none. Compared with others alone, so that a floating-point number is good enough.
pub(crate) fn read(text: &str) -> Option<f64> {
    let digits = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    if number.is_empty() || number == "." || number.matches('.').count() > 1 {
        return None;
    }
    let factor = match unit {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        _ => exponent(unit)?,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// `e3`, `E-3`.
fn exponent(unit: &str) -> Option<f64> {
    let digits = unit.strip_prefix(['e', 'E'])?;
    let power: i32 = digits.parse().ok()?;
    (-18..=18).contains(&power).then(|| 10_f64.powi(power))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn amounts_are_read() {
        for (text, wanted) in
            [("100m", 0.1), ("2", 2.0), ("0.5", 0.5), ("64Mi", 67_108_864.0), ("1e3", 1000.0), ("1E", 1e18)]
        {
            let found = read(text).unwrap();
            assert!((found - wanted).abs() < wanted / 1e9, "{text}: {found}");
        }
        for text in ["", "m", "1.2.3", "-1", "1 Mi", "64MB", "1e99", "half", ".", "Mi64", "1KI"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
