//! `--store kubernetes` against a real kube-apiserver on a real etcd.
//!
//! The API server is built from its published Go modules (`tests/interop/kube-apiserver`), which takes many minutes; so it is
//! built only with `OUTRIDER_REQUIRE_KUBE=1`. Without that, and without a binary from an earlier run, the suite says that it
//! was left out. The store runs as the service account of `deploy/control`, with no more rights than that gives it.

mod applied;
mod chart;
mod cluster;
mod deploy;
mod helm;
mod identity;
mod injection;
mod outage;
mod published;
mod statuses;
mod store;
mod whole;

use std::io::Write as _;

use cluster::Cluster;

type Result<T = ()> = anyhow::Result<T>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kubernetes_as_the_store() -> Result {
    let Some(program) = tokio::task::spawn_blocking(cluster::program).await?? else {
        writeln!(
            std::io::stderr(),
            "LEFT OUT: there is no kube-apiserver; OUTRIDER_REQUIRE_KUBE=1 builds one (needs Go, 17 minutes of CPU, 3 GB)"
        )?;
        return Ok(());
    };
    let mut cluster = Cluster::start(program).await?;
    let mut failed = Vec::new();
    macro_rules! scenarios {
        ($($name:path),* $(,)?) => {$(
            // One cluster for all, one after the other: what fails does not keep the others from running.
            let began = std::time::Instant::now();
            let outcome: Result = $name(&mut cluster).await;
            writeln!(std::io::stderr(), "{} {:?}: {:?}", stringify!($name), began.elapsed(), outcome)?;
            if let Err(error) = outcome {
                failed.push(format!("{}: {error:#}", stringify!($name)));
            }
        )*};
    }
    scenarios![
        deploy::the_manifests_apply_and_give_no_more_than_is_needed,
        store::kinds_without_a_crd_are_left_out_and_taken_up,
        published::manifests_of_the_project_are_judged_alike,
        applied::every_manifest_is_taken_strictly,
        store::what_is_written_is_there_and_expectations_are_kept,
        store::nothing_is_written_when_one_object_is_refused,
        store::a_commit_that_stops_half_way_tells_what_was_written,
        store::changes_come_once_and_a_watch_resumes,
        store::helm_releases_never_come_here,
        statuses::entries_of_others_stay_and_ours_follow_the_map,
        statuses::several_control_planes_write_once,
        identity::tokens_are_judged_by_the_server_and_join_tokens_are_counted_in_it,
        injection::new_pods_get_sidecars_and_wrong_ones_are_refused,
        whole::a_control_plane_on_kubernetes_serves_writes_and_restarts,
        applied::a_gateway_of_the_chart_serves,
        outage::what_was_known_stays_and_what_was_missed_is_made_up_for,
        applied::helm_installs_and_keeps_what_it_made,
    ];
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
