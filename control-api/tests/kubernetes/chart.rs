//! `deploy`: what is made from the chart is current, and fits the programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser as _;
use outrider_control::model::documents;
use outrider_control::server::Options;
use outrider_inject::Settings;
use outrider_inject::settings::Capture;
use outrider_tests::binary;
use serde_json::{Value, json};

use super::Result;
use super::helm;

/// The files of values that come with the chart.
const VALUES: [&str; 3] = ["plain-values.yaml", "gateway-values.yaml", "full-values.yaml"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn deploy() -> PathBuf {
    repository().join("deploy")
}

/// The objects in a file of `deploy`.
pub(crate) fn read(name: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(deploy().join(name)).with_context(|| name.to_owned())?;
    Ok(documents(name, &text)?)
}

pub(crate) fn one<'v>(values: &'v [Value], kind: &str, name: &str) -> Result<&'v Value> {
    let found = values.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
    found.with_context(|| format!("there is no {kind} {name}"))
}

/// Texts of an array.
fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The arguments of the control plane, with its name in front.
fn arguments(deployment: &Value) -> Vec<String> {
    let args = texts(&deployment["spec"]["template"]["spec"]["containers"][0]["args"]);
    std::iter::once("outrider-control").chain(args).map(str::to_owned).collect()
}

#[test]
fn every_yaml_of_the_repository_can_be_read() -> Result {
    fn files(dir: &Path, out: &mut Vec<PathBuf>) -> Result {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            // Templates are not YAML yet.
            if path.is_dir() && path.file_name().is_none_or(|it| it != "templates") {
                files(&path, out)?;
            } else if path.extension().is_some_and(|it| it == "yaml") && path.is_file() {
                out.push(path);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    for dir in ["deploy", "examples"] {
        files(&repository().join(dir), &mut found)?;
    }
    for path in &found {
        let name = path.display().to_string();
        let values = documents(&name, &fs::read_to_string(path)?)?;
        let mut seen = BTreeSet::new();
        for value in values.iter().filter(|it| it["kind"].is_string()) {
            let id = format!("{} {}", value["kind"], value["metadata"]["namespace"]);
            let id = format!("{id} {}", value["metadata"]["name"]);
            assert!(seen.insert(id.clone()), "{name}: {id} twice");
        }
    }
    assert!(found.len() > 20, "{found:?}");
    Ok(())
}

#[test]
fn the_control_plane_starts_with_what_the_manifests_give_it() -> Result {
    let values = read("outrider.yaml")?;
    let deployment = one(&values, "Deployment", "outrider-control")?;
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let args = arguments(deployment);
    let options = Options::try_parse_from(&args)?;
    assert_eq!(options.store.as_deref(), Some("kubernetes"), "one that several replicas may share");

    let ports: BTreeMap<&str, u64> = list(&container["ports"])
        .filter_map(|it| Some((it["name"].as_str()?, it["containerPort"].as_u64()?)))
        .collect();
    let webhook = options.injection.webhook.context("a webhook")?;
    let listens = [("grpc-api", options.api), ("grpc-xds", options.xds), ("https-inject", webhook)];
    assert_eq!(ports, BTreeMap::from(listens.map(|(name, at)| (name, u64::from(at.port())))));

    // Every file is in a volume, and every volume there is is mounted.
    let mounts: BTreeSet<&str> =
        list(&container["volumeMounts"]).filter_map(|it| it["mountPath"].as_str()).collect();
    for arg in args.iter().filter_map(|it| it.split_once("=/").map(|(_, path)| format!("/{path}"))) {
        let folder = Path::new(&arg).parent().and_then(Path::to_str).context("a folder")?;
        assert!(mounts.contains(folder), "{arg} is in no volume");
    }
    let names = |value: &Value| -> BTreeSet<String> {
        list(value).filter_map(|it| it["name"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(names(&pod["volumes"]), names(&container["volumeMounts"]));

    // The API server reaches the webhook by the name in its certificate, at the port of its service.
    let service = one(&values, "Service", "outrider-injector")?;
    let port = &service["spec"]["ports"][0];
    assert_eq!(port["targetPort"], "https-inject");
    let configuration =
        one(&values, "MutatingWebhookConfiguration", &options.injection.webhook_configuration)?;
    for webhook in list(&configuration["webhooks"]) {
        let client = &webhook["clientConfig"]["service"];
        let part = |name: &str| client[name].as_str().unwrap_or_default();
        let host = format!("{}.{}.svc", part("name"), part("namespace"));
        assert_eq!(options.injection.webhook_name, [host]);
        assert_eq!(client["port"], port["port"]);
        assert_eq!(client["path"], "/inject");
    }
    // The sidecars are those that `outriderctl inject` makes by itself.
    let settings = one(&values, "ConfigMap", "outrider-injection")?;
    let settings = settings["data"]["settings.yaml"].as_str().context("settings")?;
    assert_eq!(Settings::read(settings)?, Settings::default());
    Ok(())
}

#[test]
fn the_roles_are_those_of_the_control_plane_and_its_injector() -> Result {
    let rules = |values: &[Value]| -> BTreeSet<String> {
        let roles = values.iter().filter(|it| it["kind"] == "ClusterRole");
        roles
            .flat_map(|role| list(&role["rules"]).map(move |it| format!("{} {it}", role["metadata"]["name"])))
            .collect()
    };
    let by_hand = [read("control/outrider-control.yaml")?, read("control/injector.yaml")?].concat();
    assert_eq!(rules(&read("outrider.yaml")?), rules(&by_hand));
    Ok(())
}

/// Pods, by what makes them.
pub(crate) fn pods(values: &[Value]) -> Vec<(String, &Value)> {
    let makers = values.iter().filter(|it| it["kind"] == "Deployment" || it["kind"] == "DaemonSet");
    makers.map(|it| (format!("{} {}", it["kind"], it["metadata"]["name"]), &it["spec"]["template"])).collect()
}

#[test]
fn no_container_has_a_right() -> Result {
    let mut seen = 0;
    for (name, template) in pods(&[read("outrider.yaml")?, read("gateway.yaml")?].concat()) {
        let pod = &template["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        for container in list(&pod["containers"]).chain(list(&pod["initContainers"])) {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{name}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
            seen += 1;
        }
    }
    assert!(seen >= 2);
    Ok(())
}

fn proxy_arguments(deployment: &Value) -> Vec<&str> {
    texts(&deployment["spec"]["template"]["spec"]["containers"][0]["args"])
}

/// The bootstrap of a gateway's proxy, with what Kubernetes puts in.
pub(crate) fn bootstrap(deployment: &Value) -> Result<String> {
    let args = proxy_arguments(deployment);
    let at = args.iter().position(|it| *it == "--config-yaml").context("a bootstrap")?;
    let mut out = args.get(at + 1).copied().context("a bootstrap")?.to_owned();
    for variable in list(&deployment["spec"]["template"]["spec"]["containers"][0]["env"]) {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("metadata.namespace") => {
                deployment["metadata"]["namespace"].as_str().context("a namespace")?
            }
            Some("status.podIP") => "127.0.0.1",
            _ => "edge-0",
        };
        out = out.replace(&format!("$({})", variable["name"].as_str().context("a name")?), value);
    }
    ensure!(!out.contains("$("), "{out}");
    Ok(out)
}

#[test]
fn the_gateways_proxy_takes_its_bootstrap() -> Result {
    let values = read("gateway.yaml")?;
    let deployment = one(&values, "Deployment", "edge")?;
    let (args, bootstrap) = (proxy_arguments(deployment), bootstrap(deployment)?);
    let dir = binary::scratch("gateway")?;
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    fs::write(dir.join("ca.pem"), authority.self_signed(&rcgen::KeyPair::generate()?)?.pem())?;
    let bootstrap = bootstrap.replace("/etc/outrider/ca", dir.to_str().context("a path in UTF-8")?);
    let mut proxy = Command::new(binary::outrider()?);
    proxy.args(["--mode", "validate"]);
    // With all its other arguments.
    for arg in args.iter().map(|it| if it.contains('\n') { bootstrap.as_str() } else { *it }) {
        proxy.arg(arg);
    }
    let output = proxy.output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What `secrets.sh` makes; `None` where there is no openssl.
pub(crate) fn secrets() -> Result<Option<Vec<Value>>> {
    if !Command::new("openssl").arg("version").output().is_ok_and(|it| it.status.success()) {
        writeln!(std::io::stderr(), "LEFT OUT: there is no openssl for deploy/secrets.sh")?;
        return Ok(None);
    }
    let output = Command::new("sh").arg(deploy().join("secrets.sh")).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(documents("secrets.sh", std::str::from_utf8(&output.stdout)?)?))
}

/// The control plane's arguments, with its name in front, and its Secrets mounted elsewhere.
pub(crate) fn mounted(deployment: &Value, secrets: &[Value]) -> Result<Vec<String>> {
    let dir = binary::scratch("mounted")?;
    let mut args = arguments(deployment);
    let pod = &deployment["spec"]["template"]["spec"];
    for volume in list(&pod["volumes"]) {
        let Some(name) = volume["secret"]["secretName"].as_str() else { continue };
        let data = &one(secrets, "Secret", name)?["data"];
        let here = dir.join(name);
        fs::create_dir_all(&here)?;
        for (key, value) in data.as_object().into_iter().flatten() {
            fs::write(here.join(key), STANDARD.decode(value.as_str().context("a text")?)?)?;
        }
        let mut mounts = list(&pod["containers"][0]["volumeMounts"]);
        let mount = mounts.find(|it| it["name"] == volume["name"]).context("a mount")?;
        let mount = format!("{}/", mount["mountPath"].as_str().context("a path")?);
        let here = format!("{}/", here.display());
        for arg in &mut args {
            *arg = arg.replace(&mount, &here);
        }
    }
    Ok(args)
}

/// Starts as far as the files go.
fn takes(deployment: &Value, secrets: &[Value]) -> Result {
    let options = Options::try_parse_from(mounted(deployment, secrets)?)?;
    options.auth.build(None, &[options.xds, options.api])?;
    let authority = options.ca.build(None, true, SystemTime::now())?;
    authority.map(drop).context("no authority")
}

#[test]
fn the_script_makes_secrets_that_the_control_plane_takes() -> Result {
    let Some(secrets) = secrets()? else { return Ok(()) };
    let values = read("outrider.yaml")?;
    takes(one(&values, "Deployment", "outrider-control")?, &secrets)
}

#[test]
fn the_chart_makes_secrets_that_the_control_plane_takes() -> Result {
    let Some(helm) = helm::program()? else { return Ok(()) };
    let values = helm::template(&helm, &[])?.map_err(anyhow::Error::msg)?;
    takes(one(&values, "Deployment", "outrider-control")?, &values)
}

#[test]
fn with_everything_on_arguments_and_settings_are_those_that_there_are() -> Result {
    let Some(helm) = helm::program()? else { return Ok(()) };
    let full = deploy().join("chart/outrider/ci/full-values.yaml");
    let full = full.to_str().context("a path in UTF-8")?;
    let values = helm::template(&helm, &["--values", full])?.map_err(anyhow::Error::msg)?;
    let options = Options::try_parse_from(arguments(one(&values, "Deployment", "outrider-control")?))?;
    assert!(options.xds.ip().is_unspecified() && options.xds.is_ipv6());
    assert!(options.auth.client_ca.is_some());
    let settings = &one(&values, "ConfigMap", "outrider-injection")?["data"]["settings.yaml"];
    let settings = Settings::read(settings.as_str().context("settings")?)?;
    assert_eq!(settings.image, "registry.example/outrider:1");
    assert_eq!(settings.capture, Capture::Cni, "the node does it");
    assert_eq!(settings.resources.cpu_limit, None);
    Ok(())
}

#[test]
fn what_is_made_from_the_chart_is_current() -> Result {
    let Some(helm) = helm::program()? else { return Ok(()) };
    for name in VALUES {
        helm::lint(&helm, &deploy().join("chart/outrider/ci").join(name))?;
    }
    let dir = binary::scratch("chart")?;
    let mut render = Command::new("sh");
    let output = render.arg(deploy().join("render.sh")).arg(&dir).env("HELM", &helm).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["outrider.yaml", "gateway.yaml"] {
        let (made, kept) = (fs::read_to_string(dir.join(name))?, fs::read_to_string(deploy().join(name))?);
        assert!(made == kept, "deploy/{name} is not current; run deploy/render.sh");
    }
    Ok(())
}

#[test]
fn a_value_that_there_is_not_is_refused_by_its_name() -> Result {
    let Some(helm) = helm::program()? else { return Ok(()) };
    for (value, part) in [
        ("control.replica=3", "replica"),
        ("injection.failurePolicy=Maybe", "failurePolicy"),
        ("injection.settings.concurency=2", "concurency"),
        ("gateways[0].namespace=ingress", "missing property 'name'"),
        ("gateways[0].name=edge,gateways[0].ports[0].name=http,gateways[0].ports[0].port=15021", "15021"),
    ] {
        let refused =
            helm::template(&helm, &["--set", value])?.err().with_context(|| format!("{value} is taken"))?;
        assert!(refused.contains(part), "{value}: {refused}");
    }
    Ok(())
}

#[test]
fn the_plugin_is_put_on_a_node_and_taken_off() -> Result {
    if !Command::new("jq").arg("--version").output().is_ok_and(|it| it.status.success()) {
        writeln!(std::io::stderr(), "LEFT OUT: there is no jq for the chart's cni.sh")?;
        return Ok(());
    }
    let dir = binary::scratch("cni")?;
    for name in ["bin", "conf", "script"] {
        fs::create_dir(dir.join(name))?;
    }
    fs::copy(deploy().join("chart/outrider/files/cni.sh"), dir.join("script/cni.sh"))?;
    let plugin = json!({"type": "outrider-cni", "capture": {"backend": "nft"}});
    fs::write(dir.join("script/plugin.json"), plugin.to_string())?;
    fs::write(dir.join("outrider"), "a program")?;
    let run = |args: &[&str]| -> Result<bool> {
        let mut script = Command::new("sh");
        script.arg(dir.join("script/cni.sh")).args(args);
        script.env("CNI_BIN", dir.join("bin")).env("CNI_CONF", dir.join("conf"));
        Ok(script.env("CNI_BINARY", dir.join("outrider")).output()?.status.success())
    };
    let network = dir.join("conf/10-net.conflist");
    let plugins = || -> Result<Vec<Value>> {
        let read: Value = serde_json::from_slice(&fs::read(&network)?)?;
        Ok(list(&read["plugins"]).cloned().collect())
    };
    assert!(!run(&["once", "install"])?, "no network is there yet");
    let own = [json!({"type": "bridge"}), json!({"type": "portmap"})];
    let written = json!({"cniVersion": "1.0.0", "name": "net", "plugins": own}).to_string();
    fs::write(&network, &written)?;
    assert!(!run(&["check"])?);
    // The second time there is nothing to do; an entry that another version made is replaced.
    for _ in 0..2 {
        assert!(run(&["once", "install"])? && run(&["check"])?);
        assert_eq!(plugins()?, [own.as_slice(), std::slice::from_ref(&plugin)].concat());
    }
    fs::write(&network, fs::read_to_string(&network)?.replace("nft", "iptables"))?;
    assert!(!run(&["check"])? && run(&["once", "install"])? && run(&["check"])?);
    assert_eq!(plugins()?, [own.as_slice(), std::slice::from_ref(&plugin)].concat());
    // Somebody writes the network anew; another program comes with another image.
    fs::write(&network, &written)?;
    fs::write(dir.join("outrider"), "its next version")?;
    assert!(!run(&["check"])? && run(&["once", "install"])? && run(&["check"])?);
    assert_eq!(fs::read_to_string(dir.join("bin/outrider-cni"))?, "its next version");
    assert!(run(&["once", "remove"])?);
    assert_eq!(plugins()?, own);
    assert_eq!(fs::read_dir(dir.join("bin"))?.count() + fs::read_dir(dir.join("conf"))?.count(), 1);
    Ok(())
}
