//! The ends of the certificates that TLS contexts in force are built with: warnings before they come, and gauges.
//!
//! All of it is work of the control thread; a handshake does no more than to hold on to the leaf that it showed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrider_core::stat_struct;
use outrider_net::tls::{CertInUse, oldest_open_leaf};
use tokio::time::MissedTickBehavior;

use crate::control::Control;

/// How often is looked whether a warning is due.
const EVERY: Duration = Duration::from_secs(10);
/// Who has this much of its life left, in percent, or less is warned about, once at each level.
const LEVELS: [i64; 3] = [50, 20, 5];
/// The level of a certificate that has ended.
const ENDED: usize = LEVELS.len() + 1;

stat_struct! {
    /// `tls.`
    pub(crate) struct ExpiryStats {
        counters {}
        gauges { oldest_open_certificate_age_seconds }
        histograms {}
    }
}

/// Shows `see` each certificate of each TLS context in force, and whose it is: `listener NAME` or `cluster NAME`.
pub(crate) fn each_in_use(control: &Control, mut see: impl FnMut(&dyn Fn() -> String, CertInUse<'_>)) {
    for active in control.listeners.active() {
        let user = || format!("listener {}", active.listener.name());
        for context in active.listener.shared.tls_contexts() {
            context.in_use().for_each(|one| see(&user, one));
        }
    }
    for cluster in control.clusters.clusters() {
        let user = || format!("cluster {}", cluster.config.name);
        for context in cluster.tls_contexts() {
            context.in_use().for_each(|one| see(&user, one));
        }
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Brings the gauges up to date.
pub(crate) fn refresh(control: &Control) {
    let (now, mut first) = (now(), None::<i64>);
    each_in_use(control, |_, one| first = Some(first.map_or(one.not_after, |end| end.min(one.not_after))));
    // As Envoy: the largest number where there is no certificate, 0 where one has ended.
    let days = first.map_or(u64::from(u32::MAX), |end| days_left(end, now));
    control.server_stats.days_until_first_cert_expiring().set(days);
    let age = oldest_open_leaf().map_or(0, |begin| u64::try_from(now.saturating_sub(begin)).unwrap_or(0));
    control.expiry_stats.oldest_open_certificate_age_seconds().set(age);
}

/// Whole days until `end`; 0 when it is over.
pub(crate) fn days_left(end: i64, now: i64) -> u64 {
    u64::try_from(end.saturating_sub(now)).unwrap_or(0) / 86_400
}

/// Warns of the ends that come, for as long as the process runs.
pub(crate) async fn watch(control: Arc<Control>) {
    let mut known = Known::default();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = now();
        known.begin();
        each_in_use(&control, |user, one| {
            if let Some(level) = known.rises(one.der, level(one.percent_left(now))) {
                warn(level, &user(), one, now);
            }
        });
        known.forget();
    }
}

/// How many of the levels have been reached.
fn level(percent_left: i64) -> usize {
    if percent_left < 0 { ENDED } else { LEVELS.iter().filter(|level| percent_left <= **level).count() }
}

/// The certificates that were warned about, with the level reached; those only that are in use.
#[derive(Debug, Default)]
struct Known(HashMap<Box<[u8]>, Warned>);

#[derive(Debug)]
struct Warned {
    level: usize,
    in_use: bool,
}

impl Known {
    /// A look begins.
    fn begin(&mut self) {
        self.0.values_mut().for_each(|warned| warned.in_use = false);
    }

    /// The level of the certificate `der`, if it is higher than before.
    fn rises(&mut self, der: &[u8], level: usize) -> Option<usize> {
        if level == 0 {
            return None;
        }
        if let Some(warned) = self.0.get_mut(der) {
            warned.in_use = true;
            let higher = level > warned.level;
            warned.level = level.max(warned.level);
            return higher.then_some(level);
        }
        self.0.insert(der.into(), Warned { level, in_use: true });
        Some(level)
    }

    /// A look has ended: what was not seen is used no more.
    fn forget(&mut self) {
        self.0.retain(|_, warned| warned.in_use);
    }
}

fn warn(level: usize, user: &str, one: CertInUse<'_>, now: i64) {
    let info = one.info().unwrap_or_default();
    let what = if one.authority { "a root" } else { "a certificate" };
    let (source, subject, serial) = (one.source, info.subject.as_str(), info.serial.as_str());
    let uri = info.uri_sans.first().map_or("", String::as_str);
    if level == ENDED {
        tracing::warn!(
            user,
            source,
            subject,
            uri,
            serial,
            "{what} has ended: peers refuse it, or nobody passes by it; renew it"
        );
    } else {
        let (percent, days) = (one.percent_left(now), days_left(one.not_after, now));
        tracing::warn!(
            user,
            source,
            subject,
            uri,
            serial,
            "{what} has {percent} % of its life left and ends in {days} days; renew it"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_warned_of_once_and_a_certificate_that_is_gone_is_forgotten() {
        let levels: Vec<usize> = [100, 51, 50, 21, 20, 6, 5, 0, -1].map(level).to_vec();
        assert_eq!(levels, [0, 0, 1, 1, 2, 2, 3, 3, 4]);
        let mut known = Known::default();
        let mut look = |certs: &[(&[u8], usize)]| {
            known.begin();
            let rises = certs.iter().map(|(der, level)| known.rises(der, *level)).collect::<Vec<_>>();
            known.forget();
            (rises, known.0.len())
        };
        assert_eq!(look(&[(b"a", 0), (b"b", 1)]), (vec![None, Some(1)], 1));
        assert_eq!(look(&[(b"a", 2), (b"b", 1), (b"b", 1)]), (vec![Some(2), None, None], 2));
        assert_eq!(look(&[(b"b", 4)]), (vec![Some(4)], 1));
        assert_eq!(look(&[(b"b", 4)]), (vec![None], 1));
        assert_eq!(look(&[]), (vec![], 0));
    }

    #[test]
    fn days_are_whole_and_never_negative() {
        assert_eq!((days_left(86_399, 0), days_left(86_400, 0), days_left(0, 9)), (0, 1, 0));
    }
}
