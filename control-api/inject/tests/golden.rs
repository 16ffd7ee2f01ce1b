//! Manifests and what becomes of them. `UPDATE_GOLDEN=1` writes the outcomes anew; read them before they are committed.
//!
//! `NAME.yaml` becomes `NAME.out`: reports as comments, then the text. In `NAME.classic.yaml` sidecars are not native.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Write as _;
use std::path::Path;

use outrider_inject::manifest::{Injected, inject_text};
use outrider_inject::{Outcome, Settings};

fn settings(classic: bool) -> Settings {
    Settings {
        // Not the version of this build, which changes.
        image: "registry.example/outrider:1".to_owned(),
        native_sidecar: classic.then_some(false),
        ..Settings::default()
    }
}

fn outcome(text: &str, settings: &Settings) -> String {
    let mut out = String::new();
    let Injected { text, reports } = match inject_text(text, settings, None) {
        Ok(done) => done,
        Err(error) => return format!("# refused:\n{error}\n"),
    };
    for report in reports {
        let said = match report.outcome {
            Outcome::Skipped(skip) => format!("no sidecar: {skip}"),
            other => format!("{other:?}"),
        };
        writeln!(out, "# {}: {said}", report.object).unwrap();
        for warning in report.warnings {
            writeln!(out, "#   warning: {warning}").unwrap();
        }
    }
    out + &text
}

/// What changes with each build and is said elsewhere: the version, and with it the hash.
fn steady(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        match line.split_once("outrider.dev/status:") {
            Some((front, _)) => writeln!(out, "{front}outrider.dev/status: ...").unwrap(),
            None => writeln!(out, "{line}").unwrap(),
        }
    }
    out
}

#[test]
fn manifests_become_what_is_written_beside_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|it| it != "yaml" && it != "json") {
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let settings = settings(path.to_string_lossy().contains(".classic."));
        let found = steady(&outcome(&text, &settings));
        let beside = path.with_extension("out");
        let beside = if path.extension().is_some_and(|it| it == "json") {
            path.with_extension("json.out")
        } else {
            beside
        };
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&beside, &found).unwrap();
        } else if std::fs::read_to_string(&beside).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", beside.display()));
        }
        // Once more changes nothing, letter by letter.
        if let Ok(once) = inject_text(&text, &settings, None) {
            let twice = inject_text(&once.text, &settings, None).unwrap();
            assert_eq!(twice.text, once.text, "{}", path.display());
            assert!(twice.reports.iter().all(|it| it.outcome != Outcome::Injected), "{}", path.display());
        }
    }
    assert!(count >= 15, "{count} manifests");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_bootstrap_is_whole_when_kubernetes_has_put_its_values_in() {
    let pod =
        serde_json::json!({ "apiVersion": "v1", "kind": "Pod", "spec": { "containers": [{ "name": "a" }] } });
    let done = outrider_inject::inject(&pod, &settings(false), None).unwrap().object;
    let proxy = &done["spec"]["initContainers"][1];
    let args = proxy["args"].as_array().unwrap();
    assert_eq!(args[0], "--config-yaml");
    let mut text = args[1].as_str().unwrap().to_owned();
    for variable in proxy["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        assert!(text.contains(&format!("$({name})")), "{name} is for nothing");
        text = text.replace(&format!("$({name})"), if name == "POD_IP" { "fd00::7" } else { "web" });
    }
    assert!(!text.contains('$'), "{text}");
    assert!(args.iter().skip(2).all(|it| !it.as_str().unwrap().contains('$')));
    let bootstrap: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bootstrap["node"]["id"], "sidecar~fd00::7~web.web~web.svc.cluster.local");
    let ready = &bootstrap["static_resources"]["listeners"][0]["address"]["socket_address"];
    assert_eq!((&ready["address"], &ready["port_value"]), (&"fd00::7".into(), &15021.into()));
}
