//! Resources of which no two may claim the same: scopes their keys, virtual hosts their domains.
//!
//! Who is in force keeps what it has. What an update brings is refused by its name where it claims what another has; of
//! two newcomers the first by name has it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

/// A resource that claims something.
pub(super) trait Claimant: Sized {
    /// What it claims.
    type Claim: Hash + Eq + Clone;

    /// All that it claims.
    fn claims(&self) -> Vec<Self::Claim>;

    /// Whether the update that is being taken brought it.
    fn is_new(&self) -> bool;

    /// What was in force before the update that is being taken, if that brought this one.
    fn before(&mut self) -> &mut Option<Box<Self>>;
}

/// One that is not in force.
pub(super) struct Clash<T: Claimant> {
    pub(super) name: Arc<str>,
    /// What it claimed, and another has.
    pub(super) claim: T::Claim,
    /// Who has it; `None` where it was taken from the beginning.
    pub(super) owner: Option<Arc<str>>,
    /// Itself: refused if it is new. Where there was another of the name before, that is in force again.
    pub(super) loser: T,
}

/// Takes out of `all` what claims what another has, or what is `taken`.
pub(super) fn settle<T: Claimant>(
    all: &mut BTreeMap<Arc<str>, T>,
    taken: impl Iterator<Item = T::Claim>,
) -> Vec<Clash<T>> {
    let owners = taken.map(|claim| (claim, None)).collect();
    let mut settling = Settling { all, owners, clashes: Vec::new() };
    let mut brought = Vec::new();
    let names: Vec<Arc<str>> = settling.all.keys().cloned().collect();
    for name in &names {
        let Some(one) = settling.all.get_mut(name) else { continue };
        let claims = one.claims();
        if !one.is_new() {
            settling.claim(name, claims);
        } else {
            brought.push((name.clone(), claims.clone()));
            if let Some(before) = one.before() {
                let had: HashSet<T::Claim> = before.claims().into_iter().collect();
                settling.claim(name, claims.into_iter().filter(|claim| had.contains(claim)).collect());
            }
        }
    }
    for (name, claims) in brought {
        if settling.all.get(&name).is_some_and(T::is_new) {
            settling.claim(&name, claims);
        }
    }
    settling.clashes
}

struct Settling<'a, T: Claimant> {
    all: &'a mut BTreeMap<Arc<str>, T>,
    owners: HashMap<T::Claim, Option<Arc<str>>>,
    clashes: Vec<Clash<T>>,
}

impl<T: Claimant> Settling<'_, T> {
    /// Gives `name` its `claims`, or takes it out.
    fn claim(&mut self, name: &Arc<str>, claims: Vec<T::Claim>) {
        let other = |claim: &T::Claim| {
            let owner = self.owners.get(claim).filter(|owner| owner.as_ref() != Some(name))?;
            Some((claim.clone(), owner.clone()))
        };
        if let Some((claim, owner)) = claims.iter().find_map(other) {
            self.take_out(name.clone(), claim, owner);
            return;
        }
        self.owners.extend(claims.into_iter().map(|claim| (claim, Some(name.clone()))));
    }

    /// Takes `name` out. What was before it has its own again, and who got that meanwhile goes too.
    fn take_out(&mut self, name: Arc<str>, claim: T::Claim, owner: Option<Arc<str>>) {
        let mut leaving = vec![(name, claim, owner)];
        while let Some((name, claim, owner)) = leaving.pop() {
            let Some(mut one) = self.all.remove(&name) else { continue };
            for claim in one.claims() {
                if self.owners.get(&claim).is_some_and(|owner| owner.as_ref() == Some(&name)) {
                    self.owners.remove(&claim);
                }
            }
            let before = one.before().take();
            self.clashes.push(Clash { name: name.clone(), claim, owner, loser: one });
            let Some(before) = before else { continue };
            let claims = before.claims();
            self.all.insert(name.clone(), *before);
            if let Some(fixed) = claims.iter().find(|claim| self.owners.get(claim) == Some(&None)) {
                leaving.push((name, fixed.clone(), None));
                continue;
            }
            for claim in claims {
                if let Some(Some(other)) = self.owners.insert(claim.clone(), Some(name.clone())) {
                    leaving.push((other, claim, Some(name.clone())));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    struct One {
        claims: Vec<u8>,
        before: Option<Box<One>>,
        is_new: bool,
    }

    impl Claimant for One {
        type Claim = u8;

        fn claims(&self) -> Vec<u8> {
            self.claims.clone()
        }

        fn before(&mut self) -> &mut Option<Box<Self>> {
            &mut self.before
        }

        fn is_new(&self) -> bool {
            self.is_new
        }
    }

    fn in_force(claims: &[u8]) -> One {
        One { claims: claims.to_vec(), before: None, is_new: false }
    }

    fn brought(claims: &[u8], before: Option<&[u8]>) -> One {
        let before = before.map(|claims| Box::new(in_force(claims)));
        One { claims: claims.to_vec(), before, is_new: true }
    }

    fn run(all: &[(&str, One)], taken: &[u8]) -> (Vec<(String, Vec<u8>)>, Vec<String>) {
        let mut all = all.iter().map(|(name, one)| (Arc::from(*name), one.clone())).collect();
        let clashes = settle(&mut all, taken.iter().copied());
        let refused = clashes.iter().filter(|clash| clash.loser.is_new);
        let mut refused: Vec<String> = refused.map(|clash| clash.name.to_string()).collect();
        refused.sort();
        (all.into_iter().map(|(name, one)| (name.to_string(), one.claims)).collect(), refused)
    }

    fn held(all: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
        all.iter().map(|(name, claims)| ((*name).to_owned(), claims.to_vec())).collect()
    }

    #[test]
    fn a_newcomer_takes_nothing_from_what_is_in_force_whatever_its_name() {
        let (all, refused) = run(&[("a", brought(&[1], None)), ("b", in_force(&[1]))], &[]);
        assert_eq!((all, refused), (held(&[("b", &[1])]), vec!["a".to_owned()]));
        // What changes otherwise keeps its own too.
        let b = brought(&[1], Some(&[1]));
        let (all, refused) = run(&[("a", brought(&[1], None)), ("b", b)], &[]);
        assert_eq!((all, refused), (held(&[("b", &[1])]), vec!["a".to_owned()]));
    }

    #[test]
    fn two_can_swap_and_what_cannot_change_goes_back_at_the_cost_of_who_came_for_its_place() {
        let swap = [("a", brought(&[2], Some(&[1]))), ("b", brought(&[1], Some(&[2])))];
        assert_eq!(run(&swap, &[]), (held(&[("a", &[2]), ("b", &[1])]), vec![]));
        let back = [("a", brought(&[1], None)), ("b", brought(&[2], Some(&[1]))), ("c", in_force(&[2]))];
        let refused = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(run(&back, &[]), (held(&[("b", &[1]), ("c", &[2])]), refused));
        // What was taken from the beginning is nobody's.
        assert_eq!(run(&[("a", in_force(&[7]))], &[7]), (vec![], vec![]));
    }

    proptest! {
        #[test]
        fn nobody_shares_and_nobody_loses_what_it_had(
            before in prop::collection::btree_map(0_u8..12, prop::collection::vec(0_u8..16, 1..3), 0..8),
            after in prop::collection::btree_map(0_u8..12, prop::collection::vec(0_u8..16, 1..3), 0..12),
        ) {
            let mut seen = HashSet::new();
            let mut all: BTreeMap<Arc<str>, One> = BTreeMap::new();
            for (name, mut claims) in before {
                claims.retain(|claim| seen.insert(*claim));
                all.insert(format!("{name:02}").into(), in_force(&claims));
            }
            let old = all.clone();
            for (name, claims) in after {
                let name: Arc<str> = format!("{name:02}").into();
                let had = all.get(&name).map(|one| one.claims.clone());
                all.insert(name.clone(), brought(&claims, had.as_deref()));
            }
            let clashes = settle(&mut all, std::iter::empty());
            let mut owner: HashMap<u8, Arc<str>> = HashMap::new();
            for (name, one) in &all {
                for claim in &one.claims {
                    let other = owner.insert(*claim, name.clone());
                    prop_assert!(other.is_none_or(|other| other == *name), "two have {claim}");
                }
            }
            for name in old.keys() {
                prop_assert!(all.contains_key(name), "{name} was in force and is gone");
            }
            prop_assert!(clashes.iter().all(|clash| clash.loser.is_new));
        }
    }
}
