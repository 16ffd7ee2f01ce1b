//! Bootstraps of every common kind. The real Envoy accepts each (`envoy --mode validate`), and so must the reader.

use std::{fs, path::Path};

use outrider_proto::{
    Descriptors, load,
    pb::{envoy::config::bootstrap::v3::Bootstrap, google::protobuf::Any},
    to_json, validate, walk,
};

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

#[test]
fn what_envoy_accepts_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bootstraps");
    let descs = Descriptors::load();
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let loaded = load::parse(&descs, &text, &name, BOOTSTRAP, load::ParseOptions::default())
            .unwrap_or_else(|problems| panic!("{problems}"));
        let problems = validate::check(&loaded.message, &loaded.lines);
        assert!(problems.is_empty(), "{name}: {problems:?}");

        // Every field that is set can be named, and has a line of its own text.
        let lines = u32::try_from(text.lines().count()).unwrap();
        for field in walk::set_fields(&loaded.message) {
            let line = loaded.lines.line(&field);
            assert!(line.is_some_and(|line| line <= lines), "{name}: {field} is on line {line:?}");
        }

        // What is dumped can be loaded again, and says the same.
        let dumped = to_json(&descs, &loaded.message).to_string();
        let again = load::parse(&descs, &dumped, "dump.json", BOOTSTRAP, load::ParseOptions::default())
            .unwrap_or_else(|problems| panic!("{name}: {problems}"));
        let (first, second): (Bootstrap, Bootstrap) = (loaded.typed().unwrap(), again.typed().unwrap());
        assert!(first == second, "{name}");
        count += 1;
    }
    assert!(count >= 10, "{count} bootstraps");
}

#[test]
fn a_typed_struct_arrives_as_its_message() {
    let text = include_str!("bootstraps/typed-struct.yaml");
    let loaded =
        load::parse(&Descriptors::load(), text, "t.yaml", BOOTSTRAP, load::ParseOptions::default()).unwrap();
    let path =
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";
    let fields = walk::set_fields(&loaded.message);
    assert!(fields.contains(&format!("{path}.suppress_envoy_headers")), "{fields:?}");
    assert_eq!(loaded.lines.line(&format!("{path}.suppress_envoy_headers")), Some(23));
    let bootstrap: Bootstrap = loaded.typed().unwrap();
    let listener = &bootstrap.static_resources.unwrap().listeners[0];
    let filter = listener.filter_chains[0].filters[0].config_type.clone();
    let Some(outrider_proto::pb::envoy::config::listener::v3::filter::ConfigType::TypedConfig(any)) = filter
    else {
        panic!("no typed_config");
    };
    let any: Any = any;
    assert!(any.type_url.ends_with("HttpConnectionManager"), "{}", any.type_url);
}
