//! A folder of manifests that is followed, whatever way files come into it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use outrider_control::model::{Key, Kind};
use outrider_control::source::{Origin, Problems, manifests};

use crate::follow::{Follower, LIMIT, manifest, service};
use crate::runtime;

async fn follow(dir: &Path) -> (Follower, Problems) {
    let (mut follower, inputs) = Follower::new();
    let problems = Problems::default();
    manifests::start(dir, inputs, problems.clone()).await.unwrap();
    follower.until("the first picture", |known| known.resets == 1).await;
    (follower, problems)
}

/// Waits for the list of problems, which comes before what follows of it.
async fn until_problems(problems: &Problems, met: impl Fn(&[String]) -> bool) -> Vec<String> {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        let now: Vec<_> = problems.of(Origin::Manifests).iter().map(ToString::to_string).collect();
        if met(&now) {
            return now;
        }
        assert!(tokio::time::Instant::now() < end, "{now:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[test]
fn all_forms_of_manifests_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("below/deeper")).unwrap();
    fs::create_dir_all(at(".git")).unwrap();
    fs::write(at("a.yaml"), format!("{}---\n---\n{}", manifest("one", "1"), manifest("two", "1"))).unwrap();
    let json = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"List\",\n\t\"items\": [\n\t\t{\"apiVersion\": \"v1\", \
                \"kind\": \"Namespace\", \"metadata\": {\"name\": \"shop\"}}\n\t]\n}\n";
    fs::write(at("below/deeper/b.json"), json).unwrap();
    fs::write(at("below/c.yml"), manifest("three", "1")).unwrap();
    let foreign = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {}\n";
    fs::write(at("foreign.yaml"), foreign).unwrap();
    for skipped in [".git/x.yaml", ".#a.yaml", "a.yaml~", "README.md"] {
        fs::write(at(skipped), manifest("skipped", "1")).unwrap();
    }
    runtime().block_on(async {
        let (known, problems) = follow(dir.path()).await;
        assert_eq!(problems.all(), []);
        let mut expected =
            vec![Key::new(Kind::Namespace, "", "shop"), service("one"), service("two"), service("three")];
        expected.sort();
        assert_eq!(known.objects.keys().cloned().collect::<Vec<_>>(), expected);
        let one = &known.objects[&service("one")];
        assert_eq!((one.revision, one.created(), &*one.source), (0, 0, at("a.yaml").to_str().unwrap()));
    });
}

#[test]
fn changes_come_through_in_every_way_that_files_change() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("a.yaml"), manifest("one", "1")).unwrap();
    runtime().block_on(async {
        let (mut known, _) = follow(dir.path()).await;
        assert_eq!(known.version("one"), Some("1"));
        // Written in place; then as editors do it: a new file takes the name.
        fs::write(at("a.yaml"), manifest("one", "2")).unwrap();
        known.until("a write in place", |known| known.version("one") == Some("2")).await;
        fs::write(at(".a.yaml.swp"), manifest("one", "3")).unwrap();
        fs::rename(at("a.yaml"), at("a.yaml~")).unwrap();
        fs::rename(at(".a.yaml.swp"), at("a.yaml")).unwrap();
        known.until("a rename", |known| known.version("one") == Some("3")).await;
        // Of the same length, and perhaps in the same tick of the clock.
        for version in ["4", "5", "6"] {
            fs::write(at("a.yaml"), manifest("one", version)).unwrap();
        }
        known.until("the last of several writes", |known| known.version("one") == Some("6")).await;
        // A new folder with something in it, moved away again as a whole.
        fs::create_dir_all(at("new/er")).unwrap();
        fs::write(at("new/er/b.yaml"), manifest("two", "1")).unwrap();
        known.until("a new folder", |known| known.version("two") == Some("1")).await;
        fs::write(at("new/er/b.yaml"), manifest("two", "2")).unwrap();
        known.until("a change in it", |known| known.version("two") == Some("2")).await;
        fs::rename(at("new"), at(".gone")).unwrap();
        known.until("its end", |known| known.version("two").is_none()).await;
        fs::remove_file(at("a.yaml")).unwrap();
        known.until("a file's end", |known| known.objects.is_empty()).await;
        assert_eq!(known.resets, 1, "changes are told as such");
    });
}

#[test]
fn what_is_bad_is_told_and_its_last_good_version_stays() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let both = |version: &str| format!("{}---\n{}", manifest("one", version), manifest("two", version));
    fs::write(at("a.yaml"), both("1")).unwrap();
    fs::write(at("b.yaml"), manifest("three", "1")).unwrap();
    runtime().block_on(async {
        let (mut known, problems) = follow(dir.path()).await;
        // One object of the file is bad: the other changes, and the other file too.
        let bad = format!("{}  prots: []\n---\n{}", manifest("one", "2"), manifest("two", "2"));
        fs::write(at("a.yaml"), bad).unwrap();
        fs::write(at("b.yaml"), manifest("three", "2")).unwrap();
        known
            .until("the good ones", |known| {
                known.version("two") == Some("2") && known.version("three") == Some("2")
            })
            .await;
        assert_eq!(known.version("one"), Some("1"));
        let told = until_problems(&problems, |now| !now.is_empty()).await;
        assert_eq!(told.len(), 1, "{told:?}");
        let file = at("a.yaml").display().to_string();
        assert!(told[0].starts_with(&format!("{file}: Service one: spec.prots: ")), "{told:?}");
        // No YAML at all, as a file that is half written: nothing of it goes.
        fs::write(at("a.yaml"), "apiVersion: v1\nkind: [").unwrap();
        let told = until_problems(&problems, |now| now.iter().any(|it| it.contains("stays in force"))).await;
        assert!(told[0].starts_with(&file) && told[0].contains("line 2"), "{told:?}");
        fs::write(at("b.yaml"), manifest("three", "3")).unwrap();
        known.until("the other file", |known| known.version("three") == Some("3")).await;
        assert_eq!((known.version("one"), known.version("two")), (Some("1"), Some("2")));
        // Mended.
        fs::write(at("a.yaml"), both("4")).unwrap();
        known.until("the mended file", |known| known.version("one") == Some("4")).await;
        until_problems(&problems, <[String]>::is_empty).await;
    });
}

#[test]
fn of_two_files_with_the_same_object_the_first_holds() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("b.yaml"), manifest("one", "b")).unwrap();
    fs::write(at("c.yaml"), format!("{}---\n{}", manifest("two", "c"), manifest("two", "again"))).unwrap();
    runtime().block_on(async {
        let (mut known, problems) = follow(dir.path()).await;
        assert_eq!((known.version("one"), known.version("two")), (Some("b"), Some("c")));
        let told: Vec<_> = problems.all().iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].contains("Service default/two: it is twice"), "{told:?}");
        fs::write(at("a.yaml"), manifest("one", "a")).unwrap();
        known.until("the first file", |known| known.version("one") == Some("a")).await;
        let told = until_problems(&problems, |now| now.len() == 2).await;
        let (first, second) = (at("a.yaml").display().to_string(), at("b.yaml").display().to_string());
        assert!(told.iter().any(|it| it.starts_with(&second) && it.contains(&first)), "{told:?}");
        fs::remove_file(at("a.yaml")).unwrap();
        known.until("the other file again", |known| known.version("one") == Some("b")).await;
    });
}

#[test]
fn links_that_are_turned_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    // As the kubelet mounts a ConfigMap: files are links through `..data`, which is turned.
    let mount = dir.path().join("mount");
    let version = |number: &str| {
        let data = mount.join(format!("..{number}"));
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("a.yaml"), manifest("one", number)).unwrap();
        symlink(format!("..{number}"), mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    };
    version("1");
    symlink("..data/a.yaml", mount.join("a.yaml")).unwrap();
    // As releases are made: the folder itself is a link that is turned.
    for number in ["1", "2"] {
        fs::create_dir_all(dir.path().join(format!("release-{number}"))).unwrap();
        fs::write(dir.path().join(format!("release-{number}/b.yaml")), manifest("two", number)).unwrap();
    }
    let current = dir.path().join("current");
    symlink("release-1", &current).unwrap();
    runtime().block_on(async {
        let (mut mounted, _) = follow(&mount).await;
        let (mut released, _) = follow(&current).await;
        assert_eq!((mounted.version("one"), released.version("two")), (Some("1"), Some("1")));
        version("2");
        fs::remove_dir_all(mount.join("..1")).unwrap();
        mounted.until("the other data", |known| known.version("one") == Some("2")).await;
        version("3");
        mounted.until("the third data", |known| known.version("one") == Some("3")).await;
        symlink("release-2", dir.path().join("next")).unwrap();
        fs::rename(dir.path().join("next"), &current).unwrap();
        released.until("the other release", |known| known.version("two") == Some("2")).await;
        fs::write(dir.path().join("release-2/b.yaml"), manifest("two", "3")).unwrap();
        released.until("a change in it", |known| known.version("two") == Some("3")).await;
    });
}

#[test]
fn a_folder_that_goes_away_takes_nothing_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("manifests");
    runtime().block_on(async {
        let (_, inputs) = Follower::new();
        let error = manifests::start(&folder, inputs, Problems::default()).await.unwrap_err().to_string();
        assert!(error.contains("manifests") && error.contains("No such file"), "{error}");

        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.yaml"), manifest("one", "1")).unwrap();
        let (mut known, problems) = follow(&folder).await;
        fs::rename(&folder, dir.path().join("elsewhere")).unwrap();
        let told = until_problems(&problems, |now| !now.is_empty()).await;
        assert!(told[0].contains("manifests") && told[0].contains("stays in force"), "{told:?}");
        assert_eq!(known.version("one"), Some("1"));
        // Another one in its place.
        fs::create_dir(dir.path().join("next")).unwrap();
        fs::write(dir.path().join("next/b.yaml"), manifest("two", "1")).unwrap();
        fs::rename(dir.path().join("next"), &folder).unwrap();
        known
            .until("the folder is back", |known| {
                known.version("two") == Some("1") && known.version("one").is_none()
            })
            .await;
        until_problems(&problems, <[String]>::is_empty).await;
    });
}
