//! `outriderctl inject`.

use super::{folder, run_with};

const SERVICE: &str = "apiVersion: v1\nkind: Service   # stays as it is\nmetadata: {name: web}\n";
const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web, image: web}]}\n";

#[tokio::test]
async fn manifests_get_sidecars_without_a_control_plane() {
    let text = format!("{SERVICE}---\n{POD}");
    let done = run_with(&["inject", "-f", "-", "--image", "registry.example/outrider:7"], &text).await;
    assert_eq!((done.code, done.err.as_str()), (0, "-: Pod web: injected\n"));
    assert!(done.out.starts_with(&format!("{SERVICE}---\n")), "{}", done.out);
    assert!(done.out.contains("image: registry.example/outrider:7"), "{}", done.out);
    assert!(done.out.contains("restartPolicy: Always"), "{}", done.out);
    let again = run_with(&["inject", "-f", "-", "--image", "registry.example/outrider:7"], &done.out).await;
    assert_eq!((again.code, again.err.as_str()), (0, "-: Pod web: has this sidecar\n"));
    assert_eq!(again.out, done.out);
    let old = run_with(&["inject", "-f", "-", "--kubernetes-version", "v1.28.4"], POD).await;
    assert!(old.code == 0 && !old.out.contains("restartPolicy"), "{}", old.out);
}

#[tokio::test]
async fn files_are_printed_as_documents_and_settings_are_read() {
    let folder = folder(
        "inject",
        &[("a.yaml", SERVICE), ("b.yaml", POD), ("s/s.yaml", "capture: cni\nlogLevel: debug\n")],
    );
    let (files, settings) = (folder.display().to_string(), folder.join("s/s.yaml").display().to_string());
    let done = run_with(&["inject", "-f", &files, "--settings", &settings], "").await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.starts_with(&format!("{SERVICE}---\napiVersion: v1\nkind: Pod\n")), "{}", done.out);
    assert!(!done.out.contains("outrider-capture") && done.out.contains("- debug\n"), "{}", done.out);
    std::fs::write(folder.join("s/s.yaml"), "captur: cni\n").unwrap();
    let wrong = run_with(&["inject", "-f", &files, "--settings", &settings], "").await;
    assert!(wrong.code == 2 && wrong.err.contains("captur"), "{}", wrong.err);
}

#[tokio::test]
async fn what_is_wrong_is_told_and_nothing_is_printed() {
    let wrong = POD.replace("{name: web}\n", "{name: web, annotations: {outrider.dev/interceptions: cni}}\n");
    let done = run_with(&["inject", "-f", "-"], &format!("{POD}---\n{wrong}")).await;
    assert_eq!((done.code, done.out.as_str()), (1, ""));
    assert!(done.err.contains("did you mean outrider.dev/interception?"), "{}", done.err);
    let flag = run_with(&["inject", "-f", "-", "--capture", "magic"], POD).await;
    assert!(flag.code == 2 && flag.err.contains("init, cni or none"), "{}", flag.err);
    let none = run_with(&["inject"], "").await;
    assert_eq!(none.code, 2, "{}", none.err);
}
