//! Whatever a manifest looks like: twice is once, nothing of it is lost, and the patch makes what was promised.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use outrider_inject::manifest::inject_text;
use outrider_inject::settings::{Capture, Settings};
use outrider_inject::{CAPTURE, Outcome, PROXY, inject, patch};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Texts that YAML would like to take for something else, and such that nobody expects.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "yes",
            "null",
            "~",
            "1.10",
            "012",
            "0x1f",
            "1e3",
            "- a",
            "a: b",
            "#",
            "'",
            "\"",
            " x ",
            "",
            "$(POD_NAME)",
            "{}",
            "---",
            "*",
            "&a",
            "!t",
            "a\nb",
            "a\n---\nb",
            "%",
            "@",
            "`",
            ".inf",
            "true",
            "2001-01-01",
            "<<",
            "a\tb",
            "ü/~0",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,12}",
        "\\PC{0,6}",
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1000_i32..1000).prop_map(|it| Value::from(f64::from(it) / 8.0)),
        texts().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(texts(), inner, 0..4).prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}

/// Fields that nobody here knows.
fn unknown() -> impl Strategy<Value = Map<String, Value>> {
    btree_map("x[a-z]{1,6}", values(), 0..3).prop_map(|all| all.into_iter().collect())
}

fn containers() -> impl Strategy<Value = Vec<Value>> {
    vec((unknown(), prop::option::of(1_u16..14_000), any::<bool>()), 1..4).prop_map(|all| {
        let mut out = Vec::new();
        for (at, (mut fields, port, stays)) in all.into_iter().enumerate() {
            fields.insert("name".to_owned(), format!("c{at}").into());
            if let Some(port) = port {
                fields.insert("ports".to_owned(), json!([{ "containerPort": port }]));
            }
            if stays {
                fields.insert("restartPolicy".to_owned(), "Always".into());
            }
            out.push(Value::Object(fields));
        }
        out
    })
}

fn strings() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        btree_map("[a-z]{1,5}(/[a-z]{1,3})?", texts(), 0..3).prop_map(|all| Some(Value::Object(
            all.into_iter().map(|(name, it)| (name, it.into())).collect()
        ))),
    ]
}

/// A pod without `apiVersion` and `kind`.
fn pods() -> impl Strategy<Value = Value> {
    let lists = (containers(), prop::option::of(containers()), prop::option::of(vec(unknown(), 0..3)));
    (lists, unknown(), unknown(), strings(), strings(), prop::option::of(0_i64..1000)).prop_map(
        |((containers, init, volumes), mut meta, mut spec, labels, annotations, grace)| {
            spec.insert("containers".to_owned(), containers.into());
            let volumes = volumes.map(|all| all.into_iter().map(Value::Object).collect::<Value>());
            for (name, it) in [
                ("initContainers", init.map(Value::from)),
                ("volumes", volumes),
                ("terminationGracePeriodSeconds", grace.map(Value::from)),
            ] {
                spec.extend(it.map(|it| (name.to_owned(), it)));
            }
            meta.extend(labels.map(|it| ("labels".to_owned(), it)));
            meta.extend(annotations.map(|it| ("annotations".to_owned(), it)));
            json!({ "metadata": meta, "spec": spec })
        },
    )
}

fn objects() -> impl Strategy<Value = Value> {
    (
        pods(),
        prop::sample::select(vec![
            "Pod",
            "Deployment",
            "StatefulSet",
            "DaemonSet",
            "ReplicaSet",
            "Job",
            "CronJob",
            "List",
        ]),
        unknown(),
    )
        .prop_map(|(pod, kind, unknown)| {
            let mut out = match kind {
                "Pod" => pod,
                "CronJob" => json!({ "spec": { "jobTemplate": { "spec": { "template": pod } } } }),
                "List" => {
                    let mut pod = pod;
                    pod["apiVersion"] = "v1".into();
                    pod["kind"] = "Pod".into();
                    json!({ "items": [{ "kind": "Service", "apiVersion": "v1" }, pod] })
                }
                _ => json!({ "spec": { "template": pod, "selector": null } }),
            };
            out["kind"] = kind.into();
            out["apiVersion"] = match kind {
                "Pod" | "List" => "v1",
                "Job" | "CronJob" => "batch/v1",
                _ => "apps/v1",
            }
            .into();
            out.as_object_mut().unwrap().extend(unknown);
            out
        })
}

fn settings() -> impl Strategy<Value = Settings> {
    (any::<bool>(), any::<bool>(), prop::sample::select(vec![Capture::Init, Capture::Cni, Capture::None]))
        .prop_map(|(native, hold_application, capture)| Settings {
            native_sidecar: Some(native),
            hold_application,
            capture,
            ..Settings::default()
        })
}

/// Whether all that is in `before` is in `after`, lists in their order. Nothing and an empty list or object are the same to Kubernetes.
fn kept(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            old.iter().all(|(name, it)| kept(it, new.get(name).unwrap_or(&Value::Null)))
        }
        (Value::Array(old), Value::Array(new)) => {
            let mut left = new.iter();
            old.iter().all(|it| left.by_ref().any(|other| kept(it, other)))
        }
        (Value::Null, Value::Object(_) | Value::Array(_)) => true,
        _ => before == after,
    }
}

/// What an API server does with a patch.
fn apply(document: &mut Value, patch: &[Value]) {
    for operation in patch {
        let path = operation["path"].as_str().unwrap();
        let (parent, last) = path.rsplit_once('/').unwrap();
        let last = last.replace("~1", "/").replace("~0", "~");
        match document.pointer_mut(parent).unwrap() {
            Value::Array(all) => {
                assert_eq!(operation["op"], "add");
                all.insert(last.parse().unwrap(), operation["value"].clone());
            }
            Value::Object(all) => {
                assert_eq!(all.contains_key(&last), operation["op"] != "add", "{operation}");
                match operation["op"].as_str().unwrap() {
                    "remove" => drop(all.remove(&last)),
                    _ => drop(all.insert(last, operation["value"].clone())),
                }
            }
            other => panic!("{parent} is {other}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn twice_is_once_and_nothing_is_lost(object in objects(), settings in settings()) {
        let once = inject(&object, &settings, Some("shop")).unwrap();
        prop_assert!(once.changed());
        prop_assert!(kept(&object, &once.object), "{:#}\n{:#}", object, once.object);
        let twice = inject(&once.object, &settings, Some("shop")).unwrap();
        prop_assert!(!twice.changed());
        prop_assert_eq!(&twice.object, &once.object);
        let written = once.object.to_string();
        prop_assert_eq!(written.matches(&format!("\"name\":\"{PROXY}\"")).count(), 1);
        let captures = usize::from(settings.capture == Capture::Init);
        prop_assert_eq!(written.matches(&format!("\"name\":\"{CAPTURE}\"")).count(), captures);
    }

    #[test]
    fn the_patch_makes_what_was_promised(object in objects(), settings in settings(), other in settings()) {
        let once = inject(&object, &settings, None).unwrap().object;
        let mut patched = object.clone();
        apply(&mut patched, &patch::between(&object, &once));
        prop_assert_eq!(&patched, &once);
        // A sidecar of other settings is replaced by what would have been put in at first.
        let later = inject(&once, &other, None).unwrap().object;
        apply(&mut patched, &patch::between(&once, &later));
        prop_assert_eq!(&patched, &later);
        let again = inject(&later, &other, None).unwrap();
        prop_assert!(again.reports.iter().all(|it| it.outcome != Outcome::Injected));
        prop_assert_eq!(later.to_string().matches(&format!("\"name\":\"{PROXY}\"")).count(), 1);
    }

    #[test]
    fn text_says_what_the_object_is(object in objects(), settings in settings()) {
        let text = inject_text(&object.to_string(), &settings, None).unwrap().text;
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        prop_assert_eq!(read, inject(&object, &settings, None).unwrap().object, "{}", text);
    }

    #[test]
    fn nothing_is_too_odd_to_be_answered(object in values(), settings in settings(), text in "\\PC{0,80}") {
        let kinds = ["Pod", "Deployment", "CronJob", "List", "PodList"];
        for kind in kinds {
            for odd in [json!({ "apiVersion": "v1", "kind": kind, "spec": object }), json!({ "apiVersion": "v1", "kind": kind, "items": object, "metadata": object })] {
                let _ = inject(&odd, &settings, None);
            }
        }
        let _ = inject(&object, &settings, None);
        let _ = inject_text(&text, &settings, None);
    }
}
