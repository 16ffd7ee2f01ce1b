//! The CNI plugin, as a runtime calls it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::life::same;
use crate::world::World;

/// One call: whether it agreed, and what it wrote.
fn call(command: &str, namespace: &Path, input: &Value) -> Result<(bool, Value)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["capture", "cni"])
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", namespace)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0")
        .env("CNI_PATH", "/opt/cni/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    child.stdin.take().context("no input")?.write_all(input.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).context(text)? };
    Ok((output.status.success(), value))
}

fn config(version: &str, annotations: &Value) -> Value {
    json!({
        "cniVersion": version, "name": "net", "type": "outrider-cni",
        "capabilities": { "io.kubernetes.cri.pod-annotations": true },
        "runtimeConfig": { "io.kubernetes.cri.pod-annotations": annotations },
        "capture": { "options": { "exclude-outbound-ports": "22" } },
        "prevResult": { "cniVersion": version, "interfaces": [{ "name": "eth0", "sandbox": "/x" }], "ips": [], "dns": {} },
    })
}

/// Pods that ask for it are captured, and others are not.
pub(crate) fn play() -> Result<()> {
    let world = World::new()?;
    let path = world.pod.path();
    let before = world.pod.state()?;
    let asked = json!({ "outrider.dev/capture": "true", "outrider.dev/capture-exclude-inbound-ports": "9090",
                        "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.9.0.0/16" });
    for version in outrider_capture::cni::VERSIONS {
        let input = config(version, &asked);
        let (agreed, answer) = call("VERSION", &path, &json!({ "cniVersion": version }))?;
        ensure!(
            agreed && answer["cniVersion"] == version && answer["supportedVersions"][2] == "1.0.0",
            "{answer}"
        );
        let (agreed, answer) = call("ADD", &path, &input)?;
        ensure!(agreed && answer == input["prevResult"], "{answer}");
        let asked_for =
            "--exclude-outbound-ports 22 --exclude-inbound-ports 9090 --exclude-outbound-cidrs 10.9.0.0/16";
        world.pod.must(&format!("verify {asked_for}"))?;
        let (agreed, answer) = call("CHECK", &path, &input)?;
        ensure!(agreed && answer == Value::Null, "{answer}");
        world.pod.run("nft delete table ip6 outrider")?;
        let (agreed, answer) = call("CHECK", &path, &input)?;
        ensure!(!agreed && answer["code"] == 101 && answer["cniVersion"] == version, "{answer}");
        for _ in 0..2 {
            let (agreed, answer) = call("DEL", &path, &input)?;
            ensure!(agreed && answer == Value::Null, "{answer}");
            same(&before, &world.pod.state()?, "after DEL")?;
        }
    }
    let (agreed, answer) = call("DEL", Path::new("/proc/1/ns/gone"), &config("1.0.0", &asked))?;
    ensure!(agreed, "a namespace that is gone: {answer}");
    left_alone(&world, &path, &before)?;
    refused(&world, &path, &before, &asked)
}

fn left_alone(world: &World, path: &Path, before: &str) -> Result<()> {
    let asked = json!({ "outrider.dev/capture": "true" });
    let mut excluded = config("1.0.0", &asked);
    excluded["capture"]["excludeNamespaces"] = json!(["shop"]);
    let mut skipped = config("1.0.0", &asked);
    skipped["runtimeConfig"] = json!({});
    skipped["capture"]["podsWithoutAnnotations"] = json!("skip");
    let others = [config("1.0.0", &json!({})), config("1.0.0", &json!({ "outrider.dev/capture": "false" }))];
    for input in others.iter().chain([&excluded, &skipped]) {
        let (agreed, answer) = call("ADD", path, input)?;
        ensure!(agreed && answer == input["prevResult"], "{answer}");
        ensure!(world.pod.state()? == before, "it was captured: {input}");
        let (agreed, answer) = call("CHECK", path, input)?;
        ensure!(agreed, "{answer}");
    }
    Ok(())
}

fn refused(world: &World, path: &Path, before: &str, asked: &Value) -> Result<()> {
    let with = |change: fn(&mut Value)| {
        let mut input = config("1.0.0", asked);
        change(&mut input);
        input
    };
    let cases: [(Value, u32, &str); 7] = [
        (with(|it| it["runtimeConfig"] = json!({})), 7, "capabilities"),
        (with(|it| drop(it.as_object_mut().map(|it| it.remove("prevResult")))), 7, "prevResult"),
        (with(|it| it["cniVersion"] = json!("9.0.0")), 1, "1.0.0"),
        (with(|it| it["capture"]["bakend"] = json!("nft")), 6, "bakend"),
        (with(|it| it["capture"]["options"]["mode"] = json!("magic")), 7, "tproxy"),
        (with(|it| it["capture"]["options"]["no-such"] = json!("1")), 7, "there is no such option"),
        (json!([]), 6, ""),
    ];
    for (input, code, word) in cases {
        let (agreed, answer) = call("ADD", path, &input)?;
        let details = answer["details"].as_str().unwrap_or_default();
        ensure!(!agreed && answer["code"] == code && details.contains(word), "{input}: {answer}");
        ensure!(answer["msg"].is_string() && answer["cniVersion"].is_string(), "{answer}");
    }
    let input = config("1.0.0", asked);
    let (agreed, answer) = call("ADD", Path::new("/proc/self/ns/net"), &input)?;
    ensure!(!agreed && answer["code"] == 4, "the node's own namespace: {answer}");
    let (agreed, answer) = call("ADD", Path::new("/nowhere"), &input)?;
    ensure!(!agreed && answer["code"] == 5, "{answer}");
    let (agreed, answer) = call("GC", path, &input)?;
    ensure!(!agreed && answer["code"] == 4, "{answer}");
    same(before, &world.pod.state()?, "nothing")
}
