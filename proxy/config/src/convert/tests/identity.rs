//! The identity agent in `bootstrap_extensions`.

use std::path::PathBuf;
use std::time::Duration;

use super::{bad, good};
use crate::model::AgentCredential;

fn bootstrap(agents: &[&str]) -> String {
    let mut out = "bootstrap_extensions:\n".to_owned();
    for agent in agents {
        out += &format!(
            "- name: identity\n  typed_config: {{\"@type\": type.googleapis.com/outrider.extensions.bootstrap.identity.v1.IdentityAgent, {agent}}}\n"
        );
    }
    out
}

const WHOLE: &str = "address: 'control.outrider-system.svc:15012', ca_file: /ca.pem, join_token_file: /token, socket_path: ./socket";

#[test]
fn an_identity_agent_is_read() {
    let agent = good(&bootstrap(&[&format!("{WHOLE}, state_dir: /state, lifetime: 3600s")])).0.identity;
    let agent = agent.expect("an agent");
    assert_eq!(&*agent.address, "control.outrider-system.svc:15012");
    assert_eq!(agent.credential, AgentCredential::JoinToken(PathBuf::from("/token")));
    assert_eq!(agent.state_dir, Some(PathBuf::from("/state")));
    assert_eq!(agent.lifetime, Some(Duration::from_secs(3600)));
    // On the loopback there may be a control plane without TLS.
    let local = "address: '127.0.0.1:15010', service_account_token_file: /token, socket_path: ./socket";
    assert_eq!(good(&bootstrap(&[local])).0.identity.expect("an agent").ca_file, None);
}

#[test]
fn an_identity_agent_that_could_not_work_is_refused_by_its_fields() {
    let at = |agent: &str| bad(&bootstrap(&[agent])).join("\n");
    for (agent, field, wanted) in [
        ("", "address", "HOST:PORT"),
        ("", "socket_path", "needed"),
        ("", "join_token_file", "service_account_token_file"),
        ("address: 'control:0'", "address", "HOST:PORT"),
        ("address: 'control:15012'", "ca_file", "without TLS"),
        ("join_token_file: /a, service_account_token_file: /b", "join_token_file", "remove one"),
        ("lifetime: 60s", "lifetime", "ten minutes"),
    ] {
        let said = at(agent);
        let line = said.lines().find(|line| line.contains(&format!("typed_config.{field}")));
        assert!(line.is_some_and(|line| line.contains(wanted)), "{agent}: {said}");
    }
    let long = format!("{WHOLE}x{}", "x".repeat(110)).replace("./socket", "./socket");
    assert!(at(&long).contains("107 bytes"), "{}", at(&long));
    assert!(bad(&bootstrap(&[WHOLE, WHOLE])).join("\n").contains("remove one"));
}
