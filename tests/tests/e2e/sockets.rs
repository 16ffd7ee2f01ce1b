//! Listeners on other addresses than IPv4.

use anyhow::Result;
use outrider_tests::bootstrap::{Bootstrap, hcm_filter, indent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::start::{ALL, Stage, simple};

fn on(bootstrap: Bootstrap, name: &str, address: &str) -> Bootstrap {
    let chains = format!("filter_chains:\n- filters:\n{}", indent(2, &hcm_filter(name, ALL)));
    bootstrap.raw_listener(&format!("- name: {name}\n  address: {address}\n{}", indent(2, &chains)))
}

async fn ask(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> Result<String> {
    stream.write_all(b"GET /direct HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_unix_listener_serves() -> Result<()> {
    let stage = Stage::new(&on(simple(), "unix", "{ pipe: { path: \"@{dir}/listen.sock\" } }")).await?;
    let stream = UnixStream::connect(format!("{}/listen.sock", stage.places["dir"])).await?;
    let answer = ask(stream).await?;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("direct"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn an_ipv6_listener_serves() -> Result<()> {
    let lease = outrider_tests::ports::Lease::new()?;
    let address = format!("{{ socket_address: {{ address: \"::1\", port_value: {} }} }}", lease.port());
    let _stage = Stage::new(&on(simple(), "six", &address)).await?;
    let answer = ask(TcpStream::connect(("::1", lease.port())).await?).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_listener_on_several_addresses_serves_on_each() -> Result<()> {
    let more = outrider_tests::ports::Lease::new()?;
    let body = format!(
        "additional_addresses: [ {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} ]\nfilter_chains:\n- filters:\n{}",
        more.port(),
        indent(2, &hcm_filter("main", ALL))
    );
    let stage = Stage::new(&Bootstrap::new().listener("main", &body).hosts("up", &["up"], "")).await?;
    for port in [stage.port("main"), more.port()] {
        let answer = ask(TcpStream::connect(("127.0.0.1", port)).await?).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    Ok(())
}
