//! Shares: how many of a rule's requests go where.

/// Envoy's largest sum of weights.
const MOST: u64 = u32::MAX as u64;

/// A prime below [`MOST`].
const PRIME: u64 = 4_294_967_291;

/// What fractions are counted in.
const MILLION: u64 = 1_000_000;

/// Weights that Envoy takes, in the same proportion: never all zero when one was not.
///
/// `rejected` of a million requests were answered before by routes with a fraction. Envoy and Outrider draw one random number
/// for each request, and decide by it both whether a fraction is met (the number modulo a million) and which weight it falls
/// into (the number modulo their sum). Where the sum shares a large divisor with a million, what was rejected would
/// be missing from the first backends alone: 500000 + 500000 behind a rejected half would send all to the second. With a prime
/// as the sum the two are independent.
pub(super) fn fit(weights: &[u64], rejected: u32) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let weights: Vec<u64> = weights.iter().map(|weight| weight / divisor).collect();
    let total: u64 = weights.iter().sum();
    let left = MILLION.saturating_sub(u64::from(rejected)).max(1);
    // A common divisor leaves an error of at most its size among those that are left.
    let entangled = rejected > 0 && gcd(total, MILLION) * 1000 > left;
    if total > MOST || (entangled && weights.len() > 1) {
        return scale(&weights, total);
    }
    weights.iter().map(|weight| u32::try_from(*weight).unwrap_or(u32::MAX)).collect()
}

/// The same proportions with [`PRIME`] as their sum.
fn scale(weights: &[u64], total: u64) -> Vec<u32> {
    let (mut seen, mut given) = (0_u128, 0_u64);
    let mut out = Vec::with_capacity(weights.len());
    for weight in weights {
        seen += u128::from(*weight);
        let upto = seen * u128::from(PRIME) / u128::from(total.max(1));
        let upto = u64::try_from(upto).unwrap_or(PRIME);
        out.push(u32::try_from(upto - given).unwrap_or(u32::MAX));
        given = upto;
    }
    out
}

/// How many of a million `part` is of `whole`; some where there is a part, and not all where it is not all.
pub(super) fn per_million(part: u64, whole: u64) -> u32 {
    if part == 0 || whole == 0 {
        return 0;
    }
    if part >= whole {
        return 1_000_000;
    }
    let share = (u128::from(part) * u128::from(MILLION) + u128::from(whole) / 2) / u128::from(whole);
    u32::try_from(share).unwrap_or(1_000_000).clamp(1, 999_999)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The shares that Envoy comes to, counted over numbers from a fixed sequence.
    fn shares(weights: &[u32], rejected: u32) -> Vec<f64> {
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let (mut random, mut left, mut counts) = (0x9E37_79B9_7F4A_7C15_u64, 0, vec![0_u32; weights.len()]);
        for _ in 0..200_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            if random % MILLION < u64::from(rejected) {
                continue;
            }
            left += 1;
            let mut at = random % total;
            let hit = weights.iter().position(|weight| match at.checked_sub(u64::from(*weight)) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            });
            counts[hit.unwrap()] += 1;
        }
        counts.iter().map(|count| f64::from(*count) / f64::from(left.max(1))).collect()
    }

    #[test]
    fn ordinary_weights_stay_as_they_are() {
        assert_eq!(fit(&[90, 10], 0), [9, 1]);
        assert_eq!(fit(&[1, 1], 500_000), [1, 1]);
        assert_eq!(fit(&[80, 20], 333_333), [4, 1]);
        assert_eq!(fit(&[0, 7], 0), [0, 1]);
    }

    #[test]
    fn what_is_rejected_is_missing_from_all_alike() {
        let weights = fit(&[499_999, 500_001], 500_000);
        let shares = shares(&weights, 500_000);
        assert!((shares[0] - 0.5).abs() < 0.01, "{shares:?}");
    }

    #[test]
    fn parts_of_a_million() {
        assert_eq!(per_million(1, 2), 500_000);
        assert_eq!(per_million(1, 3), 333_333);
        assert_eq!(per_million(0, 3), 0);
        assert_eq!(per_million(3, 3), 1_000_000);
        assert_eq!(per_million(1, u64::MAX), 1);
        assert_eq!(per_million(u64::MAX - 1, u64::MAX), 999_999);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn shares_are_those_that_were_asked_for(
            weights in proptest::collection::vec(1_u64..1_000_000, 1..5),
            rejected in 0_u32..900_000,
        ) {
            let total: u64 = weights.iter().sum();
            let fitted = fit(&weights, rejected);
            prop_assert!(fitted.iter().map(|it| u64::from(*it)).sum::<u64>() <= MOST);
            for (share, weight) in shares(&fitted, rejected).iter().zip(&weights) {
                let want = *weight as f64 / total as f64;
                prop_assert!((share - want).abs() < 0.02, "{} {} {:?} {:?}", share, want, weights, fitted);
            }
        }
    }
}
