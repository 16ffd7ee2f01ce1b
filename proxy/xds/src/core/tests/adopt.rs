//! What an earlier life of the process had.

use super::*;

fn adopt(bench: &mut Bench, kind: Kind, names: &[&str]) {
    for name in names {
        assert!(bench.core.awaits(kind, name), "{name}");
        bench.core.adopt(kind, &(*name).into());
        assert!(!bench.core.awaits(kind, name), "{name}");
    }
}

#[test]
fn a_delta_stream_hears_what_was_adopted_and_says_what_is_gone_of_it() {
    for same_server in [true, false] {
        let mut bench = Bench::new(true);
        bench.subscribe(Kind::Cluster, &["*"]);
        bench.subscribe(Kind::Endpoint, &["a"]);
        assert!(!bench.core.awaits(Kind::Endpoint, "b"), "nobody asked for it");
        adopt(&mut bench, Kind::Cluster, &["a", "b"]);
        adopt(&mut bench, Kind::Endpoint, &["a"]);
        bench.core.connected(same_server);
        let first = bench.delta();
        let mut named: Vec<_> = first.initial_resource_versions.into_iter().collect();
        named.sort();
        assert_eq!(named, [("a".to_owned(), String::new()), ("b".to_owned(), String::new())]);
        let endpoints = bench.delta();
        assert_eq!(endpoints.resource_names_subscribe, ["a"]);
        bench.respond_delta(Kind::Cluster, "1", vec![wrapper(Kind::Cluster, "a", "v1")], &["b"]);
        let update = bench.decide(&[]);
        assert_eq!((names(&update), removed(&update)), (vec!["a"], vec!["b"]));
        assert_eq!(bench.accepted(Kind::Cluster, "a").as_deref(), Some("v1"));
    }
}

#[test]
fn a_state_of_the_world_that_leaves_out_what_was_adopted_takes_it_away() {
    let mut bench = Bench::new(false);
    bench.subscribe(Kind::Cluster, &["*"]);
    adopt(&mut bench, Kind::Cluster, &["a", "b"]);
    bench.core.connected(true);
    assert_eq!(bench.sotw().version_info, "", "all of it is asked for");
    bench.respond(Kind::Cluster, "1", vec![any(Kind::Cluster, "a", "")]);
    let update = bench.decide(&[]);
    assert_eq!((names(&update), removed(&update)), (vec!["a"], vec!["b"]));
}

#[test]
fn what_was_adopted_does_not_time_out() {
    let mut bench = Bench::new(true);
    bench.core.subscribe(bench.now, Kind::Endpoint, "a", Duration::from_secs(1));
    adopt(&mut bench, Kind::Endpoint, &["a"]);
    bench.pass(2);
    assert!(!bench.core.has_event());
}
