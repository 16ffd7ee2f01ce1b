//! What `print` shows, word by word. `GOLDEN=write` writes the files anew.

use std::path::Path;

use outrider_capture::cli::{BackendArg, print};
use outrider_capture::options::Options;

/// Sets of options by the name of their file.
const SETS: [(&str, &[(&str, &str)]); 8] = [
    ("redirect", &[]),
    ("tproxy", &[("mode", "tproxy")]),
    ("no-ipv6", &[("ipv6", "off"), ("outbound-port", "1"), ("inbound-port", "2"), ("proxy-gid", "")]),
    (
        "exclusions",
        &[
            ("exclude-outbound-ports", "22,2000-2010"),
            ("exclude-inbound-ports", "9090"),
            ("exclude-outbound-cidrs", "10.96.0.0/16,192.0.2.7,fd00::/8"),
            ("exclude-interfaces", "docker0,br-1"),
            ("exclude-uids", "0,1000-1999"),
            ("exclude-gids", "7"),
        ],
    ),
    (
        "inclusions",
        &[
            ("include-outbound-ports", "443"),
            ("include-inbound-ports", "80,8000-8100"),
            ("include-outbound-cidrs", "10.0.0.0/8"),
            ("exclude-outbound-cidrs", "10.96.0.0/16"),
            ("include-interfaces", "eth0"),
            ("include-uids", "1000"),
            ("include-gids", "1000-1001"),
        ],
    ),
    ("nothing", &[("include-outbound-cidrs", ""), ("include-inbound-ports", ""), ("proxy-ports", "")]),
    ("dns", &[("dns-port", "15053"), ("proxy-uid", "1337,1400-1410"), ("exclude-interfaces", "docker0")]),
    (
        "tproxy-all",
        &[
            ("mode", "TPROXY"),
            ("dns-port", "15053"),
            ("exclude-outbound-ports", "22"),
            ("include-inbound-ports", "80"),
            ("exclude-interfaces", "docker0"),
        ],
    ),
];

#[test]
fn the_rules_are_these() {
    for (name, settings) in SETS {
        let options = Options::parse(settings.iter().copied()).expect(name);
        for (backend, end) in [(BackendArg::Nft, "nft"), (BackendArg::Iptables, "iptables")] {
            let shown = print(&options, backend);
            assert_eq!(shown, print(&options, backend), "{name}: twice the same");
            let file =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.{end}"));
            if std::env::var_os("GOLDEN").is_some() {
                std::fs::write(&file, &shown).expect("a file");
            }
            let golden = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(golden == shown, "{} is not:\n{shown}", file.display());
        }
    }
}

#[test]
fn what_does_not_work_says_why() {
    let cases: [(&[(&str, &str)], &str); 24] = [
        (&[("mode", "magic")], "mode: \"magic\" is neither redirect nor tproxy"),
        (&[("outbound-port", "0")], "outbound-port: 0 is no port: give one from 1 to 65535"),
        (&[("inbound-port", "70000")], "inbound-port: \"70000\" is no port: give one from 1 to 65535"),
        (&[("inbound-port", "15001")], "inbound-port: 15001 is outbound-port already"),
        (&[("dns-port", "15006")], "dns-port: 15006 is inbound-port already"),
        (&[("exclude-outbound-ports", "22,x")], "exclude-outbound-ports: \"x\" is no number or range"),
        (&[("exclude-outbound-ports", "30-20")], "exclude-outbound-ports: 30-20 is backwards: write 20-30"),
        (&[("exclude-outbound-ports", "22,80,22")], "exclude-outbound-ports: 22 is there twice"),
        (&[("exclude-outbound-ports", "20-25,22")], "22 overlaps 20-25: make one range of them"),
        (&[("exclude-inbound-ports", "0-10")], "exclude-inbound-ports: 0-10: 0 is no port"),
        (&[("exclude-outbound-cidrs", "10.0.0.1/8")], "write 10.0.0.0/8 for the network, or 10.0.0.1/32"),
        (&[("exclude-outbound-cidrs", "10.0.0.0/8,10.1.0.0/16")], "10.1.0.0/16 is within 10.0.0.0/8 already"),
        (&[("exclude-outbound-cidrs", "::ffff:10.0.0.1")], "addresses of IPv4 are written as such, 10.0.0.1"),
        (&[("exclude-outbound-cidrs", "ten")], "\"ten\" is no network"),
        (&[("exclude-outbound-cidrs", "127.0.0.0/8")], "127.0.0.0/8 is never captured anyway"),
        (&[("include-outbound-ports", "443")], "give include-outbound-cidrs with nothing in it, too"),
        (
            &[("include-outbound-cidrs", "10.0.0.0/8"), ("exclude-outbound-cidrs", "11.0.0.0/8")],
            "11.0.0.0/8 is in no network of include-outbound-cidrs",
        ),
        (
            &[("include-outbound-cidrs", "10.1.0.0/16"), ("exclude-outbound-cidrs", "10.0.0.0/8")],
            "10.1.0.0/16 is never captured, as exclude-outbound-cidrs has 10.0.0.0/8",
        ),
        (
            &[("include-inbound-ports", "80"), ("exclude-inbound-ports", "81")],
            "exclude-inbound-ports: with include-inbound-ports all others are left alone anyway",
        ),
        (&[("include-uids", "1"), ("exclude-uids", "2")], "give one of the two"),
        (&[("include-uids", "1337")], "include-uids: 1337 is the proxy (proxy-uid), which is never captured"),
        (&[("proxy-uid", ""), ("proxy-gid", "")], "come back to it for ever"),
        (&[("exclude-interfaces", "eth*")], "\"eth*\" is no interface"),
        (&[("no-such", "1")], "no-such: there is no such option; there are mode, ipv6"),
    ];
    for (settings, wanted) in cases {
        let said = Options::parse(settings.iter().copied()).expect_err(wanted).to_string();
        assert!(said.contains(wanted), "{settings:?}: {said}");
    }
    let both = Options::parse([("mode", "x"), ("dns-port", "0")]).expect_err("two problems");
    assert_eq!(both.0.len(), 2, "{both}");
}
