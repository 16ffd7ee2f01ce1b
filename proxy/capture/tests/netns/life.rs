//! Set up, set up again, taken away, looked at.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Result, ensure};

use crate::paths::{in_vain, serve};
use crate::servers::{Kind, listen};
use crate::world::{LIMIT, NETS, USER, World, ask};

/// Whatever was there before, the same options make the same; and nothing is left behind.
pub(crate) fn play() -> Result<()> {
    let world = World::new()?;
    let pod = &world.pod;
    pod.run("nft add table inet other")?;
    let before = pod.state()?;
    let everything =
        "--dns-port 15053 --exclude-outbound-ports 22 --include-interfaces eth0 --include-uids 1000-2000";
    let mut sets = Vec::new();
    for mode in ["redirect", "tproxy"] {
        for options in ["", everything, "--ipv6 off", "--include-inbound-ports= --include-outbound-cidrs="] {
            sets.push(format!("--mode {mode} {options}"));
        }
    }
    let mut first = Vec::new();
    for set in &sets {
        pod.must(&format!("apply --backend nft {set}"))?;
        let once = pod.state()?;
        pod.must(&format!("apply --backend auto {set}"))?;
        same(&once, &pod.state()?, &format!("{set}, again"))?;
        pod.must(&format!("verify --rules-only {set}"))?;
        ensure!(
            !pod.capture("verify --rules-only --outbound-port 999")?.0,
            "{set}: other options are not told apart"
        );
        first.push(once);
        pod.must("remove")?;
        same(&before, &pod.state()?, &format!("{set}, taken away"))?;
    }
    // In any order, with nothing of the former left.
    for (set, wanted) in sets.iter().zip(&first).rev() {
        pod.must(&format!("apply --backend nft {set}"))?;
        same(wanted, &pod.state()?, &format!("{set}, after another"))?;
    }
    pod.must("remove")?;
    iptables(&world, &sets)?;
    // By another tool than before.
    pod.must("apply --backend iptables --mode tproxy")?;
    pod.must("apply --backend nft")?;
    ensure!(!pod.run("iptables-save")?.contains("OUTRIDER"), "iptables' rules are still there");
    pod.must("apply --backend iptables")?;
    ensure!(!pod.run("nft list tables")?.contains("outrider"), "nft's tables are still there");
    pod.must("remove")?;
    ensure!(!pod.state()?.contains("OUTRIDER"), "something is left");
    pod.must("remove")?;
    // Who may not is told what is lacking.
    let (agreed, said) =
        pod.capture("apply --include-outbound-cidrs 10.0.0.1/8 --exclude-inbound-ports 0")?;
    ensure!(!agreed && said.contains("10.0.0.0/8") && said.contains("--exclude-inbound-ports"), "{said}");
    Ok(())
}

fn iptables(world: &World, sets: &[String]) -> Result<()> {
    let pod = &world.pod;
    // It keeps the kernel's chains, empty, in tables that it once used.
    for mode in ["redirect", "tproxy"] {
        pod.must(&format!("apply --backend iptables --mode {mode} --dns-port 15053"))?;
    }
    pod.must("remove")?;
    let before = pod.state()?;
    for set in sets {
        pod.must(&format!("apply --backend iptables {set}"))?;
        let once = pod.state()?;
        ensure!(once.contains("OUTRIDER_OUTBOUND"), "{set}: {once}");
        pod.must(&format!("apply --backend iptables {set}"))?;
        same(&once, &pod.state()?, &format!("iptables {set}, again"))?;
        pod.must(&format!("verify --rules-only {set}"))?;
    }
    pod.must("remove")?;
    same(&before, &pod.state()?, "iptables, taken away")
}

pub(crate) fn same(wanted: &str, found: &str, what: &str) -> Result<()> {
    let difference: Vec<_> = wanted
        .lines()
        .filter(|it| !found.lines().any(|other| other == *it))
        .map(|it| format!("- {it}"))
        .chain(
            found.lines().filter(|it| !wanted.lines().any(|other| other == *it)).map(|it| format!("+ {it}")),
        )
        .collect();
    ensure!(wanted == found, "{what}:\n{}", difference.join("\n"));
    Ok(())
}

/// Connections that are open stay what they were, when the rules come and when they change.
pub(crate) fn open_connections() -> Result<()> {
    let world = World::new()?;
    for net in NETS {
        let _app = listen(&world.pod, net.pod.is_ipv6(), 8080, Kind::App("app"))?;
        let connect = || TcpStream::connect_timeout(&(net.pod, 8080).into(), LIMIT);
        let before = world.outside.inside(connect)??;
        world.pod.must("apply --mode redirect")?;
        let _proxy = listen(&world.pod, net.pod.is_ipv6(), 15006, Kind::Redirected("inbound"))?;
        let redirected = world.outside.inside(connect)??;
        world.pod.must("apply --mode tproxy")?;
        for (mut stream, wanted) in [
            (before, format!("app from {}", net.outside)),
            (redirected, format!("inbound to {}:8080 from {}", shown(net.pod), net.outside)),
        ] {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(b"?")?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            ensure!(said == wanted, "{said:?}, not {wanted:?}");
        }
        world.pod.must("remove")?;
    }
    Ok(())
}

fn shown(address: std::net::IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

/// The self-test tells what is so.
pub(crate) fn verify() -> Result<()> {
    for mode in ["redirect", "tproxy"] {
        let world = World::new()?;
        let pod = &world.pod;
        let set = format!("--mode {mode}");
        let (agreed, said) = pod.capture(&format!("verify {set}"))?;
        ensure!(!agreed && said.contains("outbound IPv4: FAILS") && said.contains("rules: FAILS"), "{said}");
        for backend in ["nft", "iptables"] {
            pod.must(&format!("apply {set} --backend {backend}"))?;
            let said = pod.must(&format!("verify {set}"))?;
            ensure!(said.matches(": ok: ").count() == 5, "{said}");
        }
        for options in [
            "--include-outbound-cidrs= --include-outbound-ports 443",
            "--include-outbound-cidrs 10.0.0.0/8,fd00::/8 --include-inbound-ports 8080",
            "--include-uids 1000 --include-interfaces eth0",
            "--exclude-gids 0 --exclude-outbound-ports 80",
        ] {
            pod.must(&format!("apply {set} {options}"))?;
            let said = pod.must(&format!("verify {set} {options}"))?;
            ensure!(said.matches(": ok: ").count() == 5, "{options}: {said}");
        }
        // With the proxy, who then answers.
        pod.must(&format!("apply {set}"))?;
        let servers = serve(&world, mode)?;
        let said = pod.must(&format!("verify {set}"))?;
        ensure!(said.matches("answered for").count() == 4, "{said}");
        drop(servers);
        // In the proxy's container there are no privileges: what can be tried is.
        if mode == "redirect" {
            let exe = std::env::current_exe()?;
            let said = pod.run(&format!(
                "setpriv --reuid 1337 --regid 1337 --clear-groups --inh-caps=-all --bounding-set=-all {} capture verify",
                exe.display()
            ))?;
            ensure!(said.contains("inbound IPv4: ok") && said.contains("outbound IPv4: unknown"), "{said}");
        }
        let servers = serve(&world, mode)?;
        // Rules that somebody changed.
        pod.run("nft flush chain ip outrider outbound")?;
        let (agreed, said) = pod.capture(&format!("verify {set}"))?;
        ensure!(
            !agreed && said.contains("outbound IPv4: FAILS") && said.contains("outbound IPv6: ok"),
            "{said}"
        );
        drop(servers);
        let said = ask(pod, in_vain(USER), (NETS[0].outside, 9).into());
        ensure!(said.is_err(), "{said:?}");
    }
    Ok(())
}

/// The kernel takes each of the files that `print` is held against, by each tool.
pub(crate) fn goldens() -> Result<()> {
    let world = World::new()?;
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        if path.extension().is_some_and(|it| it == "nft") {
            world.pod.run(&format!("nft --check -f {}", path.display()))?;
            seen += 1;
            continue;
        }
        let (v4, v6) = text.split_once("# ip6tables-restore").unwrap_or((&text, ""));
        let part = std::env::temp_dir().join(format!("outrider-golden-{}", std::process::id()));
        for (tool, rules) in [("iptables", v4), ("ip6tables", v6)] {
            let rules: Vec<_> = rules.lines().filter(|it| it.starts_with(['*', ':', '-', 'C'])).collect();
            std::fs::write(&part, rules.join("\n") + "\n")?;
            for form in ["", "-legacy"] {
                let taken =
                    world.pod.run(&format!("{tool}{form}-restore --test --noflush {}", part.display()));
                ensure!(taken.is_ok(), "{} {tool}{form}: {taken:?}", path.display());
            }
        }
        std::fs::remove_file(&part)?;
        seen += 1;
    }
    ensure!(seen >= 16, "{seen} files");
    Ok(())
}
