//! Which routes can match a path at all: a compressed trie that keeps the routes' order.
//!
//! Exact paths and prefixes that respect case hang in the trie; all other routes are candidates for every path.
//! The candidates come out in the order of the configuration, so that the first match is the naive scan's.

use outrider_config::model::{self, PathMatch};
use smallvec::SmallVec;

/// Below this many routes a scan is as fast.
const WORTH_IT: usize = 6;

/// The index of one virtual host's routes.
#[derive(Debug, Default)]
pub(crate) struct PathIndex {
    /// Empty when every route is a candidate for every path.
    nodes: Vec<Node>,
    /// Routes that are not in the trie.
    always: Vec<u32>,
    len: u32,
}

#[derive(Debug, Default)]
struct Node {
    /// The bytes from the parent to here.
    label: Box<[u8]>,
    /// Routes whose prefix ends here.
    prefixes: Vec<u32>,
    /// Routes whose whole path ends here.
    exact: Vec<u32>,
    /// (first byte of the label, node), sorted.
    children: Vec<(u8, u32)>,
}

impl PathIndex {
    pub(crate) fn build(routes: &[std::sync::Arc<model::Route>]) -> Self {
        let len = u32::try_from(routes.len()).unwrap_or(u32::MAX);
        let mut index = Self { nodes: Vec::new(), always: Vec::new(), len };
        if routes.len() < WORTH_IT {
            return index;
        }
        index.nodes.push(Node::default());
        for (number, route) in (0..len).zip(routes) {
            let matches = &route.matches;
            match &matches.path {
                PathMatch::Exact(path) if matches.case_sensitive => {
                    let at = index.node(path.as_bytes());
                    index.nodes[at].exact.push(number);
                }
                PathMatch::Prefix(path) | PathMatch::SeparatedPrefix(path) if matches.case_sensitive => {
                    let at = index.node(path.as_bytes());
                    index.nodes[at].prefixes.push(number);
                }
                _ => index.always.push(number),
            }
        }
        index
    }

    /// The node at `key`, made if it is not there.
    fn node(&mut self, mut key: &[u8]) -> usize {
        let mut at = 0;
        while let Some(first) = key.first() {
            let slot = self.nodes[at].children.binary_search_by_key(first, |(byte, _)| *byte);
            let Ok(position) = slot else {
                let new = self.push(Node { label: key.into(), ..Node::default() });
                let position = slot.unwrap_or_else(|position| position);
                self.nodes[at].children.insert(position, (*first, new));
                return new as usize;
            };
            let child = self.nodes[at].children[position].1 as usize;
            let label = &self.nodes[child].label;
            let common = label.iter().zip(key).take_while(|(a, b)| a == b).count();
            if common < label.len() {
                // The child's label is cut in two: a node in between keeps its number, the rest moves down.
                let (head, tail) = label.split_at(common);
                let (head, tail): (Box<[u8]>, Box<[u8]>) = (head.into(), tail.into());
                let rest = Node { label: tail, ..std::mem::take(&mut self.nodes[child]) };
                let first = rest.label[0];
                let rest = self.push(rest);
                self.nodes[child] = Node { label: head, children: vec![(first, rest)], ..Node::default() };
            }
            key = &key[common..];
            at = child;
        }
        at
    }

    fn push(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
    }

    /// The first route in order that `accept` takes, of those whose path can match `path`.
    pub(crate) fn first(&self, path: &str, mut accept: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.nodes.is_empty() {
            return (0..self.len).find(|number| accept(*number));
        }
        let mut lists: SmallVec<[&[u32]; 8]> = SmallVec::new();
        lists.push(&self.always);
        let (mut node, mut rest) = (self.nodes.first()?, path.as_bytes());
        loop {
            lists.push(&node.prefixes);
            let Some(first) = rest.first() else {
                lists.push(&node.exact);
                break;
            };
            let Ok(position) = node.children.binary_search_by_key(first, |(byte, _)| *byte) else { break };
            node = &self.nodes[node.children[position].1 as usize];
            let Some(after) = rest.strip_prefix(&*node.label) else { break };
            rest = after;
        }
        // A merge of few sorted lists: the smallest head is the next in order.
        loop {
            let next = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0])?;
            let number = next[0];
            *next = &next[1..];
            if accept(number) {
                return Some(number);
            }
        }
    }
}
