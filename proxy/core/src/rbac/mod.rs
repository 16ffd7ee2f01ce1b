//! Role-based access control: policies, compiled, and what they say of a request or a connection.
//!
//! Semantics follow Envoy's `config.rbac.v3`. All is compiled when configuration is converted; a decision allocates
//! nothing and takes no lock.

mod condition;
mod index;
mod nearest;
mod notes;

use std::sync::Arc;

use crate::cel::Program;
use crate::matching::Tree;
use index::Index;

pub use condition::{Condition, Facts, MetadataFrom};
pub use nearest::{HTTP_NAMESPACE, Nearest, nearest_is_read, note_nearest_reader};
pub use notes::{EnforcedStats, Names, ShadowStats};

/// What happens to what a policy matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It passes, and nothing else does.
    Allow,
    /// It is refused, and nothing else is.
    Deny,
    /// It passes as all else does, and is marked for access logs (`access_log_hint`).
    Log,
}

/// A policy: it matches when one of its permissions, one of its principals and its condition do.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its name.
    pub name: Arc<str>,
    /// What it is about.
    pub permission: Condition,
    /// Whom it is about.
    pub principal: Condition,
    /// What must be true besides. One that is an error is not.
    pub condition: Option<Program>,
}

/// Policies with an action.
#[derive(Debug, Clone)]
pub struct Rules {
    action: Action,
    /// In the order of their names.
    policies: Box<[Policy]>,
    index: Index,
}

/// A leaf of a match tree: a policy that is nothing but its name and its action.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Its name.
    pub name: Arc<str>,
    /// What happens to what comes to it.
    pub action: Action,
}

/// What decides.
#[derive(Debug, Clone)]
pub enum Engine {
    /// Policies.
    Rules(Rules),
    /// A match tree; what it has no leaf for is refused.
    Tree {
        /// The tree.
        tree: Tree<Leaf>,
        /// Whether one of its leaves logs: then it is said of all that matches whether it is to be logged.
        logs: bool,
    },
}

/// What rules say.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// It passes.
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<&'a Arc<str>>,
    /// Whether it is marked for access logs; `None` where the rules do not say.
    pub log: Option<bool>,
}

impl Rules {
    /// Rules of `policies`, which are looked at in the order of their names.
    pub fn new(action: Action, mut policies: Vec<Policy>) -> Self {
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        Self { action, index: Index::new(&policies), policies: policies.into() }
    }

    /// What happens to what a policy matches.
    pub const fn action(&self) -> Action {
        self.action
    }

    /// The policies in the order in which they are looked at.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// What they say of `facts`.
    pub fn decide(&self, facts: &Facts<'_>) -> Decision<'_> {
        let policy = self.find(facts).map(|policy| &policy.name);
        match self.action {
            Action::Allow => Decision { allowed: policy.is_some(), policy, log: None },
            Action::Deny => Decision { allowed: policy.is_none(), policy, log: None },
            Action::Log => Decision { allowed: true, policy, log: Some(policy.is_some()) },
        }
    }

    /// The first policy that matches.
    fn find(&self, facts: &Facts<'_>) -> Option<&Policy> {
        let policy = |number: u32| self.policies.get(number as usize);
        policy(self.index.find(facts, |number| policy(number).is_some_and(|policy| policy.matches(facts)))?)
    }
}

impl Engine {
    /// The engine of a match tree.
    pub fn tree(tree: Tree<Leaf>) -> Self {
        let mut logs = false;
        tree.each(&mut |leaf| logs |= leaf.action == Action::Log);
        Self::Tree { tree, logs }
    }

    /// What it says of `facts`.
    pub fn decide(&self, facts: &Facts<'_>) -> Decision<'_> {
        match self {
            Self::Rules(rules) => rules.decide(facts),
            Self::Tree { tree, logs } => {
                let leaf = tree.find(facts);
                let action = leaf.map(|leaf| leaf.action);
                Decision {
                    allowed: action.is_some_and(|action| action != Action::Deny),
                    policy: leaf.map(|leaf| &leaf.name),
                    log: action.filter(|_| *logs).map(|action| action == Action::Log),
                }
            }
        }
    }

    /// Whether the head of a request, or the route that it takes, has a say in what it decides.
    pub fn reads_head(&self) -> bool {
        match self {
            Self::Rules(rules) => rules.policies.iter().any(Policy::reads_head),
            Self::Tree { tree, .. } => tree.reads_head(),
        }
    }

    /// The policy that `facts`, which it refused, came nearest to.
    pub fn nearest(&self, facts: &Facts<'_>) -> Option<Nearest<'_>> {
        match self {
            Self::Rules(rules) => rules.nearest(facts),
            Self::Tree { .. } => None,
        }
    }
}

impl Policy {
    /// Whether it matches `facts`.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        self.permission.matches(facts)
            && self.principal.matches(facts)
            && self.condition.as_ref().is_none_or(|condition| condition.is_true(&facts.view()))
    }

    fn reads_head(&self) -> bool {
        self.permission.reads_head()
            || self.principal.reads_head()
            || self.condition.as_ref().is_some_and(|condition| condition.reads().per_request)
    }
}

#[cfg(test)]
mod tests;
