//! Load balancing: choosing one host of a list. No I/O, no clock; the random source is handed in.

mod edf;
pub mod hash;

pub use edf::Edf;
pub use hash::HashTable;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use outrider_config::model::LbPolicy;
use outrider_core::rng::Rng;

use crate::host::Host;

/// What a balancer remembers of one list of hosts on one worker.
#[derive(Debug)]
pub struct Balancer {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Turn { next: Cell<usize> },
    Draw,
    LeastOf { choices: u32 },
    Weighted { queue: RefCell<Edf>, bias: Option<f64> },
}

impl Balancer {
    /// A balancer over `hosts`. `position` is where turns begin (random at first, the last one after an update).
    pub fn new(policy: &LbPolicy, hosts: &[Arc<Host>], position: usize) -> Self {
        let equal = hosts.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight));
        let kind = match policy {
            LbPolicy::RoundRobin | LbPolicy::ClusterProvided if equal => {
                Kind::Turn { next: Cell::new(position) }
            }
            LbPolicy::LeastRequest { choices, .. } if equal => Kind::LeastOf { choices: (*choices).max(2) },
            // Those that hash draw from their tables instead.
            LbPolicy::Random | LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } => Kind::Draw,
            LbPolicy::LeastRequest { active_request_bias, .. } => {
                Self::weighted(hosts, position, Some(active_request_bias.get().max(0.0)))
            }
            LbPolicy::RoundRobin | LbPolicy::ClusterProvided => Self::weighted(hosts, position, None),
        };
        Self { kind }
    }

    fn weighted(hosts: &[Arc<Host>], position: usize, bias: Option<f64>) -> Kind {
        let weights: Vec<_> = hosts.iter().map(|host| weight_of(host, bias)).collect();
        let mut queue = Edf::new(&weights);
        // Workers begin at different places, or all of them would send to the heaviest first.
        for _ in 0..position.checked_rem(hosts.len()).unwrap_or(0) {
            queue.pick(|index| hosts.get(index).map_or(1.0, |host| weight_of(host, bias)));
        }
        Kind::Weighted { queue: RefCell::new(queue), bias }
    }

    /// The next host of `hosts`, the list that the balancer was made for; `None` when it is empty.
    pub fn pick<'a>(&self, hosts: &'a [Arc<Host>], rng: &impl Rng) -> Option<&'a Arc<Host>> {
        match &self.kind {
            Kind::Turn { next } => {
                let turn = next.get();
                next.set(turn.wrapping_add(1));
                hosts.get(turn.checked_rem(hosts.len())?)
            }
            Kind::Draw => hosts.get(rng.below(hosts.len() as u64) as usize),
            Kind::LeastOf { choices } => least_of(hosts, *choices, rng),
            Kind::Weighted { queue, bias } => {
                let weight = |index: usize| hosts.get(index).map_or(1.0, |host| weight_of(host, *bias));
                hosts.get(queue.borrow_mut().pick(weight)?)
            }
        }
    }

    /// Where turns stand.
    pub fn position(&self) -> Option<usize> {
        match &self.kind {
            Kind::Turn { next } => Some(next.get()),
            _ => None,
        }
    }
}

/// The one with fewer active requests of `choices` drawn; the first drawn of equals.
fn least_of<'a>(hosts: &'a [Arc<Host>], choices: u32, rng: &impl Rng) -> Option<&'a Arc<Host>> {
    let draw = || hosts.get(rng.below(hosts.len() as u64) as usize);
    let mut best = draw()?;
    if hosts.len() == 1 {
        return Some(best);
    }
    for _ in 1..choices {
        let other = draw()?;
        if other.active_requests() < best.active_requests() {
            best = other;
        }
    }
    Some(best)
}

/// A host's weight, lowered by its active requests when there is a bias.
fn weight_of(host: &Host, bias: Option<f64>) -> f64 {
    let weight = f64::from(host.weight);
    match bias {
        None => weight,
        Some(0.0) => weight,
        Some(1.0) => weight / (f64::from(host.active_requests()) + 1.0),
        Some(bias) => weight / (f64::from(host.active_requests()) + 1.0).powf(bias),
    }
}

#[cfg(test)]
mod tests;
