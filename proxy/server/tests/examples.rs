//! The examples and the demo's own bootstrap must pass `outrider check`.

#[test]
fn every_example_is_honoured_whole() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let mut out = Vec::new();
            let good = outrider_server::check::run(&path, false, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(good, "{text}");
            assert!(text.contains(" 0 inert, 0 refused"), "{text}");
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen} examples found");
}
