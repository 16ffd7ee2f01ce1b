//! Which of a route's clusters a request goes to.

use http::HeaderMap;
use outrider_config::model::Weighted;

/// The number of the chosen cluster: by the header's number if the configuration names one and the request has
/// it exactly once, else by the stream's random number.
pub(crate) fn choose(weighted: &Weighted, headers: &HeaderMap, random: u64) -> usize {
    let given = weighted.header.as_ref().and_then(|name| {
        let mut values = headers.get_all(name).iter();
        let first = values.next()?;
        let single = values.next().is_none();
        first.to_str().ok().filter(|_| single)?.trim().parse::<u64>().ok()
    });
    let weights = || weighted.clusters.iter().map(|cluster| cluster.weight.get());
    let total = weighted.total.unwrap_or_else(|| weights().fold(0, u64::saturating_add));
    let drawn = given.unwrap_or(random) % total.max(1);
    let mut end = 0_u64;
    let hit = weights().position(|weight| {
        end = end.saturating_add(weight);
        drawn < end
    });
    hit.unwrap_or(weighted.clusters.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use outrider_config::model::{HeaderMutations, RuntimeInteger, WeightedCluster};

    use super::*;

    fn weighted(weights: &[u32], header: Option<&'static str>) -> Weighted {
        let cluster = |weight: &u32| WeightedCluster {
            name: format!("c{weight}").into(),
            weight: RuntimeInteger::fixed(u64::from(*weight)),
            headers: HeaderMutations::default(),
            host_rewrite: None,
            filters: Vec::new(),
        };
        Weighted {
            clusters: weights.iter().map(cluster).collect(),
            total: Some(weights.iter().map(|weight| u64::from(*weight)).sum()),
            header: header.map(HeaderName::from_static),
        }
    }

    #[test]
    fn weights_share_the_numbers_and_zero_gets_none() {
        let weighted = weighted(&[0, 30, 0, 70], None);
        let mut counts = [0; 4];
        for random in 0..1000 {
            counts[choose(&weighted, &HeaderMap::new(), random)] += 1;
        }
        assert_eq!(counts, [0, 300, 0, 700]);
    }

    #[test]
    fn a_header_can_bring_the_number() {
        let weighted = weighted(&[1, 1], Some("x-random"));
        let mut headers = HeaderMap::new();
        headers.append("x-random", HeaderValue::from_static("7"));
        assert_eq!(choose(&weighted, &headers, 0), 1);
        headers.append("x-random", HeaderValue::from_static("7"));
        assert_eq!(choose(&weighted, &headers, 0), 0, "two values are no number");
        headers.insert("x-random", HeaderValue::from_static("seven"));
        assert_eq!(choose(&weighted, &headers, 0), 0);
    }
}
