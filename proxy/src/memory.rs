//! Giving back what only the start needed.
//!
//! Reading a configuration takes descriptors, text with its lines, and code that is never run again. A sidecar pays
//! for that as long as it lives unless it is given back: this is the one place that does it.
#![expect(unsafe_code, reason = "the allocator's and the kernel's calls for this have no safe form")]

use std::ffi::c_void;

use outrider_server::control::MemoryHooks;
use rustix::mm::{Advice, madvise};

/// What the server calls.
pub(crate) const HOOKS: MemoryHooks = MemoryHooks { started: release, crowd_left: collect };

/// Gives the freed memory of the calling thread's heap back to the kernel.
fn collect() {
    // SAFETY: collects the calling thread's own heap; no pointer is involved.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Gives freed heap memory back to the kernel, and lets go of pages of our own file that the start touched: those that
/// are needed again come back from the page cache at their first use.
fn release() {
    collect();
    for (start, len) in clean_pages_of_our_file() {
        // SAFETY: the range is mapped from our file, read-only, and none of its pages was ever written (relocated
        // pages count as anonymous), so the kernel can read each of them again from the file.
        let _ = unsafe { madvise(start as *mut c_void, len, Advice::LinuxDontNeed) };
    }
}

/// Mappings of our executable that cannot be written and have no page of their own, as start and length.
fn clean_pages_of_our_file() -> Vec<(usize, usize)> {
    let Ok(exe) = std::fs::read_link("/proc/self/exe") else { return Vec::new() };
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else { return Vec::new() };
    clean_mappings(&smaps, &exe.to_string_lossy())
}

fn clean_mappings(smaps: &str, file: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line, file) {
            current = mapping;
        } else if let Some(rest) = line.strip_prefix("Anonymous:")
            && rest.split_whitespace().next() == Some("0")
        {
            found.extend(current.take());
        }
    }
    found
}

/// The range that a mapping's first line describes: `Some(None)` for a mapping that is not to be touched, `None` for a
/// line that begins no mapping.
fn mapping(line: &str, file: &str) -> Option<Option<(usize, usize)>> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let permissions = fields.next()?;
    let path = fields.nth(3).unwrap_or("");
    let ours = path == file && !permissions.contains('w') && end > start;
    Some(ours.then(|| (start, end - start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_read_only_mappings_of_the_file_are_given_back() {
        let smaps = "\
5500-5600 r--p 00000000 fe:00 12 /bin/outrider\nRss: 4 kB\nAnonymous: 0 kB\n\
5600-5800 r-xp 00001000 fe:00 12 /bin/outrider\nAnonymous: 0 kB\n\
5800-5900 r--p 00002000 fe:00 12 /bin/outrider\nAnonymous: 8 kB\n\
5900-5a00 rw-p 00003000 fe:00 12 /bin/outrider\nAnonymous: 0 kB\n\
7f00-7f10 r-xp 00000000 fe:00 99 /lib/libc.so.6\nAnonymous: 0 kB\n";
        assert_eq!(clean_mappings(smaps, "/bin/outrider"), [(0x5500, 0x100), (0x5600, 0x200)]);
    }
}
