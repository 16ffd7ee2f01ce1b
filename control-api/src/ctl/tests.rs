//! The program against a control plane in this process: what it prints, and how it ends.

mod inject;
mod typed;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::{Console, run};
use crate::api::tests::harness::{DEADLINE, Harness};

/// What came of a command line.
struct Done {
    code: u8,
    out: String,
    err: String,
}

/// Runs a command line with a text on its standard input.
async fn run_with(args: &[&str], input: &str) -> Done {
    let (mut out, mut err, mut input) = (Vec::new(), Vec::new(), input.as_bytes());
    let console = Console {
        input: &mut input,
        out: &mut out,
        err: &mut err,
        terminal: false,
        // All that is made is younger: ages are 0s.
        now: || 0,
        home: None,
    };
    let args = std::iter::once("outriderctl").chain(args.iter().copied()).map(Into::into);
    let code = run(args.collect::<Vec<_>>(), console).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code, out: text(out), err: text(err) }
}

/// Runs a command at a control plane.
async fn ctl(harness: &Harness, command: &str, input: &str) -> Done {
    let server = harness.address.to_string();
    let mut args = vec!["--server", &server, "--insecure-loopback"];
    args.extend(command.split(' '));
    run_with(&args, input).await
}

fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("outriderctl-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    for (name, text) in files {
        let file = path.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    path
}

const SHOP: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports: [{name: http, port: 80}, {name: admin, port: 9901}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.0.0.1]}
- {addresses: [10.0.0.2], conditions: {ready: false}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  hostnames: [shop.example.com]
  parentRefs: [{name: edge, sectionName: https}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_applied_shown_compared_and_deleted() {
    let harness = Harness::start().await;
    let dry = ctl(&harness, "apply -f - --dry-run", SHOP).await;
    assert_eq!(dry.code, 0, "{}", dry.err);
    assert!(dry.out.starts_with("service/web created (dry run)\n"), "{}", dry.out);
    let differs = ctl(&harness, "diff -f -", SHOP).await;
    assert_eq!(differs.code, 1, "{}", differs.err);
    assert!(differs.out.contains("--- live service/web (namespace shop)\n+++ -\n"), "{}", differs.out);
    assert!(differs.out.contains("\n+kind: HTTPRoute\n"), "{}", differs.out);

    let applied = ctl(&harness, "apply -f -", SHOP).await;
    assert_eq!(
        applied.out,
        "service/web created\n\
         endpointslice.discovery.k8s.io/web-1 created\n\
         httproute.gateway.networking.k8s.io/web created\n"
    );
    assert_eq!(applied.code, 0);
    let same = ctl(&harness, "diff -f -", SHOP).await;
    assert_eq!((same.code, same.out.as_str()), (0, ""), "{}", same.err);

    let services = ctl(&harness, "get svc -n shop -o wide", "").await;
    assert_eq!(
        services.out,
        "NAME   TYPE        CLUSTER-IP   PORTS             AGE   SELECTOR\n\
         web    ClusterIP   10.96.0.1    80/TCP,9901/TCP   0s    app=web\n",
        "{}",
        services.err
    );
    let slices = ctl(&harness, "get eps -A --no-headers", "").await;
    assert_eq!(slices.out, "shop   web-1   web   8080/TCP   1/2   0s\n");
    let names = ctl(&harness, "get svc,httproutes -n shop -o name", "").await;
    assert_eq!(names.out, "service/web\nhttproute.gateway.networking.k8s.io/web\n");
    let routes = ctl(&harness, "get httproute/web -n shop", "").await;
    assert!(routes.out.contains("shop.example.com   Gateway/edge:https"), "{}", routes.out);

    let changed = SHOP.replace("port: 9901", "port: 9902");
    let differs = ctl(&harness, "diff -f -", &changed).await;
    assert_eq!(differs.code, 1);
    assert!(
        differs.out.contains("-    port: 9901\n+    port: 9902\n")
            || differs.out.contains("-  port: 9901\n+  port: 9902\n"),
        "{}",
        differs.out
    );
    assert!(
        !differs.out.contains("generation") && !differs.out.contains("resourceVersion"),
        "{}",
        differs.out
    );

    let deleted = ctl(&harness, "delete svc web none -n shop", "").await;
    assert_eq!((deleted.code, deleted.out.as_str()), (1, "service/web deleted\n"));
    assert_eq!(deleted.err, "error: service/none: Service shop/none does not exist\n");
    let deleted = ctl(&harness, "delete -f - --ignore-not-found", SHOP).await;
    assert_eq!(
        deleted.out,
        "httproute.gateway.networking.k8s.io/web deleted\nendpointslice.discovery.k8s.io/web-1 deleted\n"
    );
    let none = ctl(&harness, "get all -n shop", "").await;
    assert_eq!((none.code, none.out.as_str()), (0, ""));
    assert!(none.err.contains("-A all"), "{}", none.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_get_json_and_yaml() {
    let harness = Harness::start().await;
    ctl(&harness, "apply -f -", SHOP).await;
    let one = ctl(&harness, "get svc web -n shop -o json", "").await;
    let object: serde_json::Value = serde_json::from_str(&one.out).unwrap();
    assert_eq!((&object["kind"], &object["metadata"]["resourceVersion"]), (&"Service".into(), &"1".into()));
    let list = ctl(&harness, "get svc -n shop -o json", "").await;
    let object: serde_json::Value = serde_json::from_str(&list.out).unwrap();
    assert_eq!((&object["kind"], &object["items"][0]["metadata"]["name"]), (&"List".into(), &"web".into()));
    // What is got can be applied again.
    let yaml = ctl(&harness, "get svc web -n shop -o yaml", "").await;
    assert!(yaml.out.starts_with("apiVersion: v1\nkind: Service\n"), "{}", yaml.out);
    let again = ctl(&harness, "apply -f -", &yaml.out).await;
    assert_eq!(again.out, "service/web unchanged\n", "{}", again.err);
    let described = ctl(&harness, "describe httproute web -n shop", "").await;
    for part in
        ["Kind:        HTTPRoute (gateway.networking.k8s.io/v1)", "Namespace:   shop", "Spec:\n  hostnames:"]
    {
        assert!(described.out.contains(part), "{part}: {}", described.out);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_problem_of_every_file_is_told_with_the_file() {
    let harness = Harness::start().await;
    let bad =
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 80, colour: blue}]}\n";
    let worse = "apiVersion: v1\nkind: Service\nmetadata: {}\n";
    let path =
        folder("problems", &[("a.yaml", SHOP), ("b.yaml", bad), ("deep/c.yaml", worse), ("d.txt", "x")]);
    let shown = path.display();
    let done = ctl(&harness, &format!("apply -R -f {shown}"), "").await;
    assert_eq!((done.code, done.out.as_str()), (1, ""));
    let want = format!(
        "error: nothing was stored: 2 problems\n\
         {shown}/b.yaml: Service default/bad: spec.ports[0].colour: unknown field; remove it or mend its name\n\
         {shown}/deep/c.yaml: Service default/: metadata.name: missing; every object has a name\n"
    );
    assert_eq!(done.err, want);
    assert!(harness.store.list().await.unwrap().records.is_empty());
    // Without -R the folder in it does not count.
    let done = ctl(&harness, &format!("diff -f {shown}"), "").await;
    assert_eq!(done.code, 4, "{}", done.err);
    assert!(done.err.contains("1 problem\n"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_usage_and_silent_servers_have_codes_of_their_own() {
    let harness = Harness::start().await;
    for (command, code, said) in [
        ("get gadgets", 2, "\"gadgets\" is no kind here"),
        ("get servces", 2, "did you mean services?"),
        ("apply", 2, "by -f"),
        ("apply -f /nowhere.yaml", 2, "/nowhere.yaml: No such file"),
        ("apply -n other -f -", 2, "-n says \"other\""),
        ("delete svc", 2, "which services?"),
        ("frobnicate", 2, "unrecognized subcommand"),
        ("get svc none", 1, "Service default/none does not exist"),
        ("proxy-config clusters web-0.shop", 1, "no proxy \"web-0.shop\" is connected to test"),
        ("get svc -l a=(", 1, "label selector"),
        ("--token a\u{1} get svc", 2, "letters that no token has"),
    ] {
        let done = ctl(&harness, command, SHOP).await;
        assert_eq!(done.code, code, "{command}: {}", done.err);
        assert!(done.err.contains(said), "{command}: {}", done.err);
    }
    let done = run_with(&["--server", "127.0.0.1:1", "--insecure-loopback", "get", "svc"], "").await;
    assert_eq!(done.code, 3);
    assert!(
        done.err.contains("127.0.0.1:1 was not reached") && done.err.contains("is it running"),
        "{}",
        done.err
    );
    // TLS towards one that speaks none.
    let server = harness.address.to_string();
    let done = run_with(&["--server", &server, "get", "svc"], "").await;
    assert_eq!(done.code, 3, "{}", done.err);
    let help = run_with(&["--help"], "").await;
    assert_eq!(help.code, 0);
    assert!(help.out.contains("Exit codes:") && help.out.contains("proxy-status"), "{}", help.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_control_planes_host_its_data_directory_is_enough() {
    use crate::api::audit::Audit;
    use crate::api::auth::AuthArgs;
    let folder = folder("secure", &[]);
    let security = AuthArgs::default().build(Some(&folder), &[]).unwrap();
    let harness = Harness::with(security, Audit::memory(), Vec::new()).await;
    let (server, path) = (harness.address.to_string(), folder.display().to_string());
    let done = run_with(&["--server", &server, "--data-dir", &path, "apply", "-f", "-"], SHOP).await;
    assert_eq!(done.code, 0, "{}", done.err);
    let ca = folder.join("tls/ca.pem").display().to_string();
    let done = run_with(&["--server", &server, "--ca", &ca, "get", "svc"], "").await;
    assert_eq!(done.code, 3);
    assert!(done.err.contains("--token-file"), "{}", done.err);
    let proxy = folder.join("tokens/proxy.token").display().to_string();
    let done = run_with(&["--server", &server, "--ca", &ca, "--token-file", &proxy, "get", "svc"], "").await;
    assert_eq!(done.code, 3);
    assert!(done.err.contains("not allowed: proxy has the role proxy"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_are_listed_and_requests_explained() {
    let harness = Harness::start().await;
    ctl(
        &harness,
        "apply -f -",
        &SHOP.replace("name: http, port: 80}", "name: http, port: 80, appProtocol: http}"),
    )
    .await;
    let none = ctl(&harness, "proxy-status", "").await;
    assert_eq!((none.code, none.err.as_str()), (0, "no proxy is connected to test\n"));
    let id = "sidecar~10.0.0.9~client-0.shop~shop.svc.cluster.local";
    let done = ctl(&harness, &format!("explain {id} http://web.shop/a?b -H x:y"), "").await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.ends_with("=> route to outbound|80||web.shop.svc.cluster.local\n"), "{}", done.out);
    assert!(done.out.contains("1 of 1 endpoints are healthy"), "{}", done.out);
    let json = ctl(&harness, &format!("explain {id} web.shop -o json"), "").await;
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["clusters"]["outbound|80||web.shop.svc.cluster.local"], 100.0);
}

/// A writer that others can look at.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_shows_what_is_there_and_then_what_changes() {
    let harness = Harness::start().await;
    ctl(&harness, "apply -f -", SHOP).await;
    let (shared, server) = (Shared::default(), harness.address.to_string());
    let mut out = shared.clone();
    let watching = async {
        let (mut input, mut err) = (std::io::empty(), std::io::sink());
        let console = Console {
            input: &mut input,
            out: &mut out,
            err: &mut err,
            terminal: false,
            now: || 0,
            home: None,
        };
        let args = ["outriderctl", "--server", &server, "--insecure-loopback", "-n", "shop", "watch", "svc"];
        run(args.map(Into::into), console).await
    };
    let until = async |want: &str| {
        let poll = async {
            while String::from_utf8(shared.0.lock().unwrap().clone()).unwrap() != want {
                tokio::task::yield_now().await;
            }
        };
        let done = tokio::time::timeout(DEADLINE, poll).await;
        assert!(done.is_ok(), "{}", String::from_utf8_lossy(&shared.0.lock().unwrap()));
    };
    let first = "EVENT   NAME   TYPE        CLUSTER-IP   PORTS             AGE\n\
                 ADDED   web    ClusterIP   10.96.0.1    80/TCP,9901/TCP   0s\n";
    let looking = async {
        until(first).await;
        ctl(&harness, "delete svc web -n shop", "").await;
        until(&format!("{first}DELETED   web    ClusterIP   10.96.0.1    80/TCP,9901/TCP   0s\n")).await;
    };
    tokio::select! {
        code = watching => panic!("the watch ended with {code}"),
        () = looking => {}
    }
}

#[tokio::test]
async fn what_needs_no_server_asks_none() {
    let kinds = run_with(&["api-resources"], "").await;
    let words = ["httproutes", "hr", "gateway.networking.k8s.io/v1", "true", "HTTPRoute"];
    assert!(kinds.out.lines().any(|it| it.split_whitespace().eq(words)), "{}", kinds.out);
    for shell in ["bash", "zsh", "fish"] {
        let script = run_with(&["completion", shell], "").await;
        assert!(script.code == 0 && script.out.contains("proxy-config"), "{shell}");
    }
    let token = run_with(&["token", "ci", "--role", "operator"], "").await;
    let lines: Vec<_> = token.out.lines().filter(|line| !line.starts_with('#')).collect();
    let [secret, line] = lines.as_slice() else { panic!("{}", token.out) };
    assert!(secret.starts_with("outrider_") && line.starts_with("ci operator sha256:"), "{}", token.out);
    assert_eq!(run_with(&["token", "ci", "--role", "root"], "").await.code, 2);
    let version = run_with(&["version", "--client"], "").await;
    assert_eq!(version.out, concat!("outriderctl ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn ages_are_written_as_kubectl_writes_them() {
    let cases = [
        (5, "5s"),
        (119, "119s"),
        (120, "2m"),
        (330, "5m30s"),
        (660, "11m"),
        (11_000, "3h3m"),
        (90_000, "25h"),
    ];
    for (seconds, want) in cases {
        assert_eq!(super::table::age(seconds), want);
    }
    assert_eq!(super::table::age(3 * 86_400), "3d");
    assert_eq!(super::table::age(800 * 86_400), "2y70d");
}

#[tokio::test]
async fn colours_are_for_terminals() {
    let plain = run_with(&["api-resources"], "").await;
    assert!(!plain.out.contains('\u{1b}'));
    let colored = run_with(&["--color", "always", "api-resources"], "").await;
    assert!(colored.out.contains("\u{1b}[1mNAME\u{1b}[0m"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_is_made_shown_and_deleted() {
    let harness = Harness::start().await;
    let made = ctl(&harness, "token create -n shop --service-account web --ttl 2h --uses 3", "").await;
    assert_eq!(made.code, 0, "{}", made.err);
    let token = made.out.trim();
    assert!(token.starts_with("outrider_join.shop.join-"), "{token}");
    assert!(made.err.contains("service account shop/web, good 3 times until 20"), "{}", made.err);
    let name = token.split('.').nth(2).unwrap();
    let listed = ctl(&harness, "get jointokens -n shop", "").await;
    assert!(
        listed.out.contains(name) && listed.out.contains("web") && listed.out.contains(" 3 "),
        "{}",
        listed.out
    );
    // The hash alone is kept.
    let kept = ctl(&harness, "get jointokens -n shop -o yaml", "").await;
    assert!(
        kept.out.contains("sha256:") && !kept.out.contains(token.rsplit('.').next().unwrap()),
        "{}",
        kept.out
    );
    assert_eq!(ctl(&harness, &format!("delete jointoken {name} -n shop"), "").await.code, 0);

    for (wrong, part) in [
        ("token create", "--service-account"),
        ("token create --service-account Web", "no service account"),
        ("token create --service-account web --ttl 9000h", "720h"),
        ("token create --service-account web --ttl soon", "no duration"),
        ("token jane", "--role"),
        ("token", "required"),
    ] {
        let done = ctl(&harness, wrong, "").await;
        assert!(done.code == 2 && done.err.contains(part), "{wrong}: {} {}", done.code, done.err);
    }
    let done = ctl(&harness, "token create --service-account web --uses 0", "").await;
    assert!(done.code == 1 && done.err.contains("spec.uses"), "{}", done.err);
    // The other kind of token is as it was.
    let done = ctl(&harness, "token jane --role operator", "").await;
    assert!(done.code == 0 && done.out.contains("jane operator sha256:"), "{}", done.out);
}
