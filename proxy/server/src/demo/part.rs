//! What the demo starts beside itself: this very binary again, in the place of an application, or on its way to become a sidecar.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, bail};
use rustix::process::{Gid, Signal, Uid, set_parent_process_death_signal};
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_gid, set_thread_groups, set_thread_uid,
};

use super::app;

/// The name of the hidden command.
pub(super) const COMMAND: &str = "demo-part";
/// Stands for what is not given.
pub(super) const NONE: &str = "-";
/// This binary, wherever it is: a sidecar's user may not be allowed into the folder that it lies in.
pub(super) const MYSELF: &str = "/proc/self/exe";

/// Plays one part.
///
/// `hold` holds a namespace and `app NAME ADDRESS HOSTS` is an application; both end when their standard input does. `enter NAMESPACE USER PROGRAM
/// ARGS...` becomes another program in the network namespace of a process, as a user, and ends with the demo.
///
/// # Errors
/// What is asked for is not possible.
pub fn run(args: &[String]) -> anyhow::Result<bool> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["app", name, address, hosts] => app::run(name, address, Some(*hosts).filter(|it| *it != NONE)),
        ["hold"] => hold(),
        ["enter", namespace, user, program, rest @ ..] => enter(namespace, user, program, rest),
        _ => bail!("this is a part of `outrider demo`, and of no use by itself"),
    }
}

/// Is there, so that a namespace is.
fn hold() -> anyhow::Result<bool> {
    writeln!(std::io::stdout(), "ready")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(true)
}

/// Becomes another program.
fn enter(namespace: &str, user: &str, program: &str, args: &[&str]) -> anyhow::Result<bool> {
    if namespace != NONE {
        let path = format!("/proc/{namespace}/ns/net");
        let namespace = File::open(&path).with_context(|| path.clone())?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context(path)?;
    }
    if user != NONE {
        let id: u32 = user.parse().context("the user is no number")?;
        // There is one thread, so that this is the whole process.
        set_thread_groups(&[]).context("leaving all groups")?;
        set_thread_gid(Gid::from_raw(id)).context("becoming another group")?;
        set_thread_uid(Uid::from_raw(id)).context("becoming another user")?;
    }
    // Behind the change of the user, which would undo it.
    set_parent_process_death_signal(Some(Signal::KILL)).context("binding to the demo's life")?;
    Err(Command::new(program).args(args).exec()).with_context(|| format!("running {program}"))
}
