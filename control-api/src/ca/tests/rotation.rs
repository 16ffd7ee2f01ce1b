//! The authority's own folder: made once, kept, never written over; and roots that follow one another.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::harness::{DAY, HOUR, believed, domain, own, web, workload_key};
use crate::ca::supplied::Supplied;
use crate::ca::{Ca, own as folder};

fn copy(from: &Path, to: &Path, generation: u64) -> Supplied {
    let read = |name: &str| std::fs::read(from.join(format!("ca/{generation}/{name}"))).unwrap();
    let issuer = String::from_utf8(read("issuer.pem")).unwrap();
    let at = issuer.find("-----BEGIN PRIVATE").unwrap();
    let files = Supplied {
        certificate: to.join("issuer.pem"),
        key: to.join("issuer.key"),
        root: Some(to.join("roots.pem")),
    };
    std::fs::write(&files.certificate, &issuer[..at]).unwrap();
    std::fs::write(&files.key, &issuer[at..]).unwrap();
    std::fs::write(files.root.as_ref().unwrap(), read("root.pem")).unwrap();
    files
}

#[test]
fn the_first_start_makes_an_authority_for_its_owner_alone_and_the_next_keep_it() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let first = own(dir.path(), now).unwrap().bundle().borrow().clone();
    let files =
        ["1/root.pem", "1/root.key", "1/issuer.pem", "state.json"].map(|it| dir.path().join("ca").join(it));
    let read = || files.clone().map(|it| std::fs::read(it).unwrap());
    for file in &files {
        assert_eq!(
            std::fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            file.display()
        );
    }
    let before = read();
    assert_eq!(*own(dir.path(), now).unwrap().bundle().borrow(), first);
    assert_eq!(read(), before);
}

#[test]
fn of_two_who_rotate_at_once_one_does() {
    let now = SystemTime::now();
    for _ in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let ca = own(dir.path(), now).unwrap();
        // So that the first root is needed for a while.
        ca.issue(&workload_key(), &web(), None, now).unwrap();
        let start = std::sync::Barrier::new(2);
        let rotate = || {
            start.wait();
            folder::rotate(dir.path(), &domain(), now).map_err(|error| error.to_string())
        };
        let both = std::thread::scope(|scope| {
            let threads = [scope.spawn(rotate), scope.spawn(rotate)];
            threads.map(|it| it.join().unwrap())
        });
        let ([Ok(2), Err(error)] | [Err(error), Ok(2)]) = &both else { panic!("{both:?}") };
        assert!(error.contains("under way"), "{error}");
        ca.refresh(now).unwrap();
        assert_eq!(ca.bundle().borrow().roots.len(), 2);
    }
}

#[test]
fn what_is_damaged_is_named_and_never_written_over() {
    let now = SystemTime::now();
    for name in ["1/root.pem", "1/issuer.pem", "state.json", "trust.json"] {
        for text in ["", "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA"] {
            let dir = tempfile::tempdir().unwrap();
            let ca = own(dir.path(), now).unwrap();
            ca.issue(&workload_key(), &web(), None, now).unwrap();
            let file = dir.path().join("ca").join(name);
            std::fs::write(&file, text).unwrap();
            let error = format!("{:#}", own(dir.path(), now).unwrap_err());
            assert!(error.contains(name.rsplit('/').next().unwrap()), "{name}: {error}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "{name}");
            // One that runs goes on with what it has.
            let refreshed = ca.refresh(now);
            assert!(name == "trust.json" || refreshed.is_err());
            assert!(ca.issue(&workload_key(), &web(), None, now).is_ok(), "{name}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    drop(own(dir.path(), now).unwrap());
    std::fs::remove_dir_all(dir.path().join("ca/1")).unwrap();
    let error = format!("{:#}", own(dir.path(), now).unwrap_err());
    assert!(error.contains("is missing") && error.contains("backup"), "{error}");
    assert!(!dir.path().join("ca/1").exists());
}

#[test]
fn a_first_start_that_was_interrupted_is_finished() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    std::fs::create_dir_all(dir.path().join("ca/.new-1")).unwrap();
    std::fs::write(dir.path().join("ca/.new-1/root.pem"), "half").unwrap();
    let made = own(dir.path(), now).unwrap().bundle().borrow().clone();
    std::fs::remove_file(dir.path().join("ca/state.json")).unwrap();
    assert_eq!(*own(dir.path(), now).unwrap().bundle().borrow(), made);
}

#[test]
fn the_intermediate_is_renewed_in_time() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let ca = own(dir.path(), now).unwrap();
    let old = ca.issue(&workload_key(), &web(), None, now).unwrap();
    let later = now + DAY * 300;
    ca.refresh(later).unwrap();
    let new = ca.issue(&workload_key(), &web(), None, later).unwrap();
    assert_ne!(old.chain[1], new.chain[1]);
    assert_eq!(old.root, new.root);
    assert_eq!(ca.recognise(&new.chain, later), Ok(web()));
}

#[test]
fn a_new_root_is_announced_then_signs_and_the_old_one_goes_with_its_last_certificate() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let ca = own(dir.path(), now).unwrap();
    let roots = |ca: &Ca| ca.bundle().borrow().roots.clone();
    let issue = |ca: &Ca, now| ca.issue(&workload_key(), &web(), None, now).unwrap();
    let mut news = ca.bundle();
    let before = issue(&ca, now);
    let old = roots(&ca);
    assert_eq!(folder::rotate(dir.path(), &domain(), now).unwrap(), 2);
    let error = format!("{:#}", folder::rotate(dir.path(), &domain(), now).unwrap_err());
    assert!(error.contains("under way"), "{error}");

    // Announced: both are believed, and the old one signs, as not everybody knows of the new one.
    ca.refresh(now).unwrap();
    assert!(news.has_changed().unwrap());
    news.borrow_and_update();
    assert_eq!((roots(&ca).len(), &roots(&ca)[0]), (2, &old[0]));
    let new = roots(&ca)[1].clone();
    let during = issue(&ca, now + HOUR * 2);
    assert_eq!(during.root, old[0]);
    // A restart changes nothing of that.
    assert_eq!(roots(&own(dir.path(), now + HOUR * 3).unwrap()), [old[0].clone(), new.clone()]);

    // Whoever had a certificate when it was announced has got another one since: now it signs.
    let switched = now + DAY + HOUR * 2;
    ca.refresh(switched).unwrap();
    let after = issue(&ca, switched);
    assert_eq!((&after.root, roots(&ca)), (&new, vec![new.clone(), old[0].clone()]));
    assert_eq!(ca.recognise(&during.chain, now + HOUR * 20), Ok(web()));
    assert_eq!(ca.recognise(&after.chain, switched), Ok(web()));
    assert_ne!(believed(dir.path(), &after.chain, std::slice::from_ref(&new), switched), Some(false));
    // Everybody who has the bundle believes both, in any order and over a restart.
    let restarted = own(dir.path(), switched).unwrap();
    assert_eq!(roots(&restarted), [new.clone(), old[0].clone()]);

    // The last certificate under the old one has ended.
    ca.refresh(now + DAY * 3).unwrap();
    assert_eq!(roots(&ca), [new]);
    assert!(ca.recognise(&before.chain, now).is_err(), "a root that is gone is believed no more");
}

#[test]
fn supplied_files_that_change_are_taken_over_and_both_roots_are_believed_for_a_while() {
    let (one, two, files) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let data = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    drop((own(one.path(), now).unwrap(), own(two.path(), now).unwrap()));
    let supplied = copy(one.path(), files.path(), 1);
    let ca = Ca::supplied(supplied.clone(), Some(data.path()), domain(), DAY, now).unwrap();
    let old = ca.issue(&workload_key(), &web(), None, now).unwrap();

    // Rubbish changes nothing, and is told once.
    let touch = |path: &Path, seconds: u64| {
        let file = std::fs::File::options().append(true).open(path).unwrap();
        file.set_modified(now + Duration::from_secs(seconds)).unwrap();
    };
    std::fs::write(&supplied.certificate, "rubbish").unwrap();
    touch(&supplied.certificate, 10);
    assert!(format!("{:#}", ca.refresh(now).unwrap_err()).contains("--ca-cert"));
    assert!(ca.refresh(now).is_ok());
    assert_eq!(ca.issue(&workload_key(), &web(), None, now).unwrap().root, old.root);

    copy(two.path(), files.path(), 1);
    touch(&supplied.certificate, 20);
    ca.refresh(now).unwrap();
    let new = ca.issue(&workload_key(), &web(), None, now).unwrap();
    assert_ne!(new.root, old.root);
    let both = vec![new.root.clone(), old.root.clone()];
    assert_eq!(ca.bundle().borrow().roots, both);
    assert_eq!((ca.recognise(&old.chain, now), ca.recognise(&new.chain, now)), (Ok(web()), Ok(web())));
    // After a restart as well.
    let again = Ca::supplied(supplied, Some(data.path()), domain(), DAY, now).unwrap();
    assert_eq!(again.bundle().borrow().roots, both);
    ca.refresh(now + DAY * 2).unwrap();
    assert_eq!(ca.bundle().borrow().roots, [new.root]);
}

#[test]
fn a_former_root_goes_before_its_time_when_it_is_forced_to() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let drop_roots = |force, at| folder::drop_roots(dir.path(), &domain(), force, at);
    assert!(drop_roots(true, now).unwrap_err().to_string().contains("no authority"));
    let ca = own(dir.path(), now).unwrap();
    let error = drop_roots(true, now).unwrap_err().to_string();
    assert!(error.contains("no former root"), "{error}");
    ca.issue(&workload_key(), &web(), None, now).unwrap();
    folder::rotate(dir.path(), &domain(), now).unwrap();
    ca.refresh(now).unwrap();
    let error = drop_roots(true, now).unwrap_err().to_string();
    assert!(error.contains("under way"), "{error}");
    // One that is still valid when the new root signs.
    let late = ca.issue(&workload_key(), &web(), None, now + 20 * HOUR).unwrap();
    let then = now + 26 * HOUR;
    ca.refresh(then).unwrap();
    assert_eq!(ca.bundle().borrow().roots.len(), 2);
    assert!(ca.recognise(&late.chain, then).is_ok());

    let error = drop_roots(false, then).unwrap_err().to_string();
    assert!(error.contains("--force"), "{error}");
    assert_eq!(drop_roots(true, then).unwrap(), [1]);
    ca.refresh(then).unwrap();
    assert_eq!(ca.bundle().borrow().roots.len(), 1);
    assert!(ca.recognise(&late.chain, then).is_err(), "its root is still believed");
    // A restart does not bring it back.
    drop(ca);
    assert_eq!(own(dir.path(), then).unwrap().bundle().borrow().roots.len(), 1);
}
