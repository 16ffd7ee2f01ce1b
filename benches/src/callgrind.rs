//! Reading what callgrind writes: the cost of each function alone, and who calls the allocator.

use std::collections::HashMap;

/// The counts of one or several files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Instructions by function, callees not counted.
    pub(crate) costs: HashMap<String, u64>,
    /// Calls of the allocator by caller.
    pub(crate) allocations: HashMap<String, u64>,
}

impl Profile {
    /// Adds the counts of a file's text.
    pub(crate) fn read(&mut self, text: &str) {
        // Names are written out once and stand as numbers from then on.
        let mut names: HashMap<String, String> = HashMap::new();
        let (mut current, mut callee) = (String::new(), String::new());
        let mut inclusive = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                current = resolve(&mut names, name);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = resolve(&mut names, name);
            } else if let Some(calls) = line.strip_prefix("calls=") {
                let count = calls.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
                if allocates(&callee) && !is_allocator(&current) {
                    *self.allocations.entry(current.clone()).or_default() += count;
                }
                inclusive = true;
            } else if line.starts_with(['+', '-', '*']) || line.starts_with(|c: char| c.is_ascii_digit()) {
                // The line behind a call is what the callee cost; the callee has it as its own.
                if !std::mem::take(&mut inclusive)
                    && let Some(cost) = line.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok())
                {
                    *self.costs.entry(current.clone()).or_default() += cost;
                }
            }
        }
    }
}

/// A name as it stands, or the name that its number stands for.
fn resolve(names: &mut HashMap<String, String>, text: &str) -> String {
    let Some((number, name)) = text.split_once(')') else { return text.to_owned() };
    let name = name.trim();
    if name.is_empty() {
        return names.get(number).cloned().unwrap_or_default();
    }
    names.insert(number.to_owned(), name.to_owned());
    name.to_owned()
}

fn allocates(name: &str) -> bool {
    let name = name.rsplit("::").next().unwrap_or(name);
    ["mi_malloc", "mi_zalloc", "mi_realloc", "mi_calloc"].iter().any(|start| name.starts_with(start))
        || ["__rust_alloc", "__rust_alloc_zeroed", "__rust_realloc"].contains(&name)
        || ["malloc", "calloc", "realloc"].contains(&name)
}

fn is_allocator(name: &str) -> bool {
    let name = name.rsplit("::").next().unwrap_or(name);
    name.starts_with("mi_") || name.starts_with("_mi_") || name.starts_with("__rust_") || name == "malloc"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_a_functions_own_and_allocations_its_callers() {
        let mut profile = Profile::default();
        profile.read(
            "fn=(1) serve\n10 5\n+1 7\ncfn=(2) __rustc::__rust_alloc\ncalls=3 20\n* 900\n\n\
             fn=(2)\n20 30\ncfn=(3) mi_malloc_aligned\ncalls=3 9\n+2 800\n\nfn=(1)\n12 1\n",
        );
        assert_eq!(profile.costs["serve"], 13);
        assert_eq!(profile.costs["__rustc::__rust_alloc"], 30);
        assert_eq!(profile.allocations, HashMap::from([("serve".to_owned(), 3)]));
    }
}
