//! Which control plane is meant, and what goes to it.

use super::super::args::Flags;
use super::*;

fn target(args: Connection) -> Result<Target, Failure> {
    Target::read(&args, None)
}

#[tokio::test]
async fn clear_text_goes_to_this_host_alone() {
    let args =
        Connection { server: Some("192.0.2.1:15020".into()), insecure_loopback: true, ..Default::default() };
    let failure = target(args).unwrap().connect().await.unwrap_err();
    assert_eq!(failure.code, 2);
    assert!(failure.message.contains("192.0.2.1 is not this host"), "{}", failure.message);
}

#[test]
fn flags_go_before_the_configuration_file() {
    let home = std::env::temp_dir().join(format!("outriderctl-home-{}", std::process::id()));
    let folder = home.join(".config/outrider");
    std::fs::create_dir_all(&folder).unwrap();
    let text = "current: dev\ncontexts:\n  dev: {server: 'localhost:1', insecureLoopback: true, namespace: shop}\n  prod: {server: 'prod:1', token: abc}\n";
    std::fs::write(folder.join("config.yaml"), text).unwrap();
    let read = |args: Connection| Target::read(&args, Some(&home));
    let dev = read(Connection::default()).unwrap();
    assert_eq!(
        (dev.server.as_str(), dev.insecure, dev.namespace.as_deref()),
        ("localhost:1", true, Some("shop"))
    );
    let prod = read(Connection { context: Some("prod".into()), ..Default::default() }).unwrap();
    assert_eq!((prod.server.as_str(), prod.token.as_deref()), ("prod:1", Some("abc")));
    let other = read(Connection { server: Some("other:1".into()), ..Default::default() }).unwrap();
    assert_eq!(
        (other.insecure, other.token),
        (false, None),
        "a named server gets no other one's credentials"
    );
    let failure = read(Connection { context: Some("test".into()), ..Default::default() }).unwrap_err();
    assert!(failure.message.contains("dev, prod"), "{}", failure.message);
}

#[test]
fn an_administrators_token_stays_on_this_host() {
    let home = std::env::temp_dir().join(format!("outriderctl-here-{}", std::process::id()));
    let (folder, data) = (home.join(".config/outrider"), home.join("data"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(data.join("tokens")).unwrap();
    std::fs::write(data.join("tokens/admin.token"), "admin\n").unwrap();
    let text =
        "current: prod\ncontexts:\n  prod: {server: 'prod:1', token: abc}\n  near: {server: 'localhost:1'}\n";
    std::fs::write(folder.join("config.yaml"), text).unwrap();
    let read = |flags: &[&str], args: Connection| {
        let args = Connection { data_dir: Some(data.clone()), flags: Flags::these(flags), ..args };
        Target::read(&args, Some(&home)).map(|it| (it.server, it.token.unwrap_or_default()))
    };
    let said = |server: &str, token: &str| (server.to_owned(), token.to_owned());
    // Whether a flag or the environment names the directory, it is not for the file's current server.
    for flags in [&["data_dir"][..], &[]] {
        assert_eq!(read(flags, Connection::default()).unwrap(), said(SERVER, "admin"));
    }
    let prod = || Connection { context: Some("prod".into()), ..Default::default() };
    assert_eq!(read(&["data_dir", "context"], prod()).unwrap_err().code, 2);
    assert_eq!(read(&["context"], prod()).unwrap(), said("prod:1", "abc"));
    let near = Connection { context: Some("near".into()), ..Default::default() };
    assert_eq!(read(&["data_dir", "context"], near).unwrap(), said("localhost:1", "admin"));
    let far = || Connection { server: Some("far:1".into()), ..Default::default() };
    assert_eq!(read(&["server"], far()).unwrap(), said("far:1", ""));
    assert_eq!(read(&["server", "data_dir"], far()).unwrap(), said("far:1", "admin"), "both were named");
}

#[test]
fn flags_go_before_the_environment() {
    let read = |flags: &[&str], token: Option<&str>, file: Option<PathBuf>| {
        let flags = Flags::these(flags);
        let args = Connection { token: token.map(Into::into), token_file: file, flags, ..Default::default() };
        Target::read(&args, None)
    };
    let file = std::env::temp_dir().join(format!("outriderctl-token-{}", std::process::id()));
    std::fs::write(&file, "of-the-file").unwrap();
    let token = |flags: &[&str]| read(flags, Some("itself"), Some(file.clone())).unwrap().token.unwrap();
    assert_eq!(token(&["token_file"]), "of-the-file", "the other one is the environment's");
    assert_eq!(token(&["token"]), "itself");
    assert_eq!(read(&["token", "token_file"], Some("a"), Some(file.clone())).unwrap_err().code, 2);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_not_waited_for() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Some(listener.local_addr().unwrap().to_string());
    // Connections wait in the kernel, where nobody takes them.
    let args = Connection { server, insecure_loopback: true, timeout: 1, ..Default::default() };
    let mut client = target(args).unwrap().connect().await.unwrap();
    let request = client.list(crate::pb::ListRequest::default());
    let done = tokio::time::timeout(Duration::from_secs(20), request).await.expect("it ends by itself");
    let failure = Failure::from(done.unwrap_err());
    assert_eq!(failure.code, 3, "{}", failure.message);
    assert!(failure.message.contains("--timeout"), "{}", failure.message);
}

#[test]
fn addresses_have_a_host_and_a_port() {
    assert_eq!(host("[::1]:15020"), Some("[::1]"));
    assert_eq!(host("control.test:1"), Some("control.test"));
    for bad in ["control.test", "::1:15020", ":1", "a:b", "a:99999"] {
        assert_eq!(host(bad), None, "{bad}");
    }
}
