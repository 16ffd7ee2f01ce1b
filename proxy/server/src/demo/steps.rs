//! What the demo shows, step by step.

use anyhow::{Context as _, bail, ensure};

use super::shop::Shop;
use super::tap::Tap;
use super::transcript::Transcript;

const RETRIES: &str = include_str!("mesh/retries.yaml");
const POLICY: &str = include_str!("mesh/policy.yaml");
/// The identities that the control plane's authority gave.
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
/// Something that no stranger should read.
const SECRET: &str = "card-4111111111111111";

/// All of it.
pub(super) fn walk(shop: &mut Shop, out: &mut Transcript) -> anyhow::Result<()> {
    by_name(shop, out).context("calling by name")?;
    identity(shop, out).context("identity")?;
    if shop.fabric.is_some() {
        wire(shop, out).context("mutual TLS on the wire")?;
    } else {
        relayed(shop, out).context("mutual TLS between the sidecars")?;
    }
    split(shop, out).context("shifting traffic")?;
    fault(shop, out).context("a fault and its retries")?;
    policy(shop, out).context("a policy")?;
    outage(shop, out).context("the control plane's outage")
}

fn by_name(shop: &mut Shop, out: &mut Transcript) -> anyhow::Result<()> {
    out.step("An application calls another one by its name")?;
    out.asked("web: GET http://cart/orders, in clear, as any application does")?;
    let (status, body) = shop.ask("/orders")?;
    out.came(&format!("{status} {body}"))?;
    ensure!(status == 200 && body.starts_with("cart-v1 answers /orders"), "another answer was expected");
    if shop.fabric.is_some() {
        let counted = shop.web.stat("http.outbound_0.0.0.0_80.", "downstream_cx_total")?;
        out.came(&format!(
            "{counted} connections to port 80 in the stats of web's sidecar, though web knows of no sidecar"
        ))?;
        ensure!(counted > 0, "the sidecar saw no connection");
        out.proves("capture led the call to the sidecar of web, and that one found the cart: no setting in either application")
    } else {
        out.proves("the sidecar of web found the cart by its name (without root there is no capture: web calls its sidecar's port)")
    }
}

fn identity(shop: &mut Shop, out: &mut Transcript) -> anyhow::Result<()> {
    out.step("Who calls is known, and by a certificate")?;
    out.asked("web: GET http://cart/whoami; then the access log of the cart's sidecar")?;
    let (status, body) = shop.ask("/whoami")?;
    out.came(&format!("{status} {body}"))?;
    ensure!(status == 200 && body.contains(WEB), "the cart was not told of {WEB}");
    let line = shop.log_line("/whoami")?;
    out.came(&format!("log: {line}"))?;
    ensure!(
        line.contains(&format!("from={WEB}")) && line.contains("tls=TLSv1."),
        "the log names somebody else"
    );
    out.proves("the sidecar of web has a certificate of the control plane's authority, and the cart's sidecar verified it")
}

fn wire(shop: &mut Shop, out: &mut Transcript) -> anyhow::Result<()> {
    out.step("Between the pods all is encrypted")?;
    out.asked(&format!(
        "web: GET http://cart/pay?{SECRET}, while packet sockets listen in web's pod and on the bridge"
    ))?;
    let (inside, between) = (Tap::start(shop.web.space())?, Tap::start(shop.wire())?);
    let (status, _) = shop.ask(&format!("/pay?{SECRET}"))?;
    let (inside, between) = (inside.finish()?, between.finish()?);
    let (packets, bytes) = between.of_port(shop.called);
    out.came(&format!("{status}; within web's pod the secret was read in {} packets", inside.with(SECRET)))?;
    out.came(&format!(
        "on the bridge {packets} packets with {bytes} bytes passed, the secret in {} of them",
        between.with(SECRET)
    ))?;
    ensure!(status == 200, "the request failed");
    ensure!(
        inside.with(SECRET) > 0,
        "the application's own request was not seen, so listening in proves nothing"
    );
    ensure!(packets > 0, "nothing was seen on the bridge");
    ensure!(between.with(SECRET) == 0, "the request passed the bridge in clear");
    strangers(shop, out)?;
    out.proves("what the application said in clear left its pod by mutual TLS alone")
}

fn relayed(shop: &mut Shop, out: &mut Transcript) -> anyhow::Result<()> {
    out.step("Between the sidecars all is encrypted")?;
    out.asked(&format!("web: GET http://cart/pay?{SECRET}, while a relay between the sidecars reads along"))?;
    shop.passed.clear();
    let (status, _) = shop.ask(&format!("/pay?{SECRET}"))?;
    let (bytes, seen) = (shop.passed.bytes(), shop.passed.with(SECRET));
    out.came(&format!(
        "{status}; {bytes} bytes passed the relay, the secret {}",
        if seen { "in clear" } else { "not among them" }
    ))?;
    ensure!(status == 200, "the request failed");
    ensure!(bytes > SECRET.len(), "the request did not pass the relay");
    ensure!(!seen, "the request passed the relay in clear");
    strangers(shop, out)?;
    out.proves("what the application said in clear went from sidecar to sidecar by mutual TLS alone")
}

/// Nobody without a certificate of the mesh gets in.
fn strangers(shop: &Shop, out: &Transcript) -> anyhow::Result<()> {
    let cart = shop.carts.first().context("no cart")?;
    let to = (cart.address(), shop.called).into();
    match shop.wire().get(to, "/pay") {
        Ok(answer) if answer.status < 400 => bail!("a stranger in clear was answered: {answer:?}"),
        Ok(answer) => out.came(&format!("a stranger without a certificate who asks the cart in clear: {}", answer.status)),
        Err(_) => out.came("a stranger without a certificate who asks the cart in clear: no answer, the connection is closed"),
    }
}

fn split(shop: &mut Shop, out: &mut Transcript) -> anyhow::Result<()> {
    const TIMES: usize = 40;
    out.step("Traffic is shifted from v1 to v2, live")?;
    let mut failed = 0;
    for (v1, v2, news) in [(100, 0, "cart-v1 "), (50, 50, "cart-v2 "), (0, 100, "")] {
        shop.split(v1, v2)?;
        // Requests run on while the change is on its way.
        let mut in_a_row = 0;
        shop.until("the new weights to be in force", |shop| {
            let (status, body) = shop.ask("/orders")?;
            failed += usize::from(status != 200);
            in_a_row = if v1 == 0 && !body.starts_with("cart-v2 ") { 0 } else { in_a_row + 1 };
            let there = if news.is_empty() { in_a_row >= 20 } else { body.starts_with(news) };
            Ok(there.then_some(()))
        })?;
        let [to_v1, to_v2, lost] = shop.ask_often(TIMES, "/orders")?;
        failed += lost;
        out.asked(&format!("HTTPRoute cart: {v1} % to v1, {v2} % to v2; then {TIMES} requests"))?;
        out.came(&format!("{to_v1} answers of v1, {to_v2} of v2, {failed} failed, all in all"))?;
        let fits = match v1 {
            100 => to_v2 == 0,
            0 => to_v1 == 0,
            _ => to_v1 > 4 && to_v2 > 4,
        };
        ensure!(fits, "that is not what the weights say");
    }
    ensure!(failed == 0, "{failed} requests failed");
    out.proves("the sidecar follows the control plane within a moment, and no request is lost over it")
}

fn fault(shop: &mut Shop, out: &mut Transcript) -> anyhow::Result<()> {
    const TIMES: usize = 20;
    out.step("A fault is injected, and retried away")?;
    let cart = shop.carts.last_mut().context("no cart")?;
    cart.fault(true)?;
    out.asked(&format!("cart v2 fails every second request; {TIMES} requests"))?;
    let [.., failed] = shop.ask_often(TIMES, "/orders")?;
    out.came(&format!("{failed} failed"))?;
    ensure!(failed > 0, "the fault did not show");
    shop.plane.apply("retries", RETRIES)?;
    shop.until("the retries to be in force", |shop| {
        // Of two in a row, one fails without them.
        let [.., failed] = shop.ask_often(2, "/orders")?;
        Ok((failed == 0).then_some(()))
    })?;
    let before = shop.web.stat("cluster.outbound|80||cart", ".upstream_rq_retry_success")?;
    out.asked(&format!("TrafficPolicy cart: up to 3 retries on 5xx; {TIMES} requests"))?;
    let [.., failed] = shop.ask_often(TIMES, "/orders")?;
    let saved = shop.web.stat("cluster.outbound|80||cart", ".upstream_rq_retry_success")? - before;
    out.came(&format!("{failed} failed; the sidecar of web counted {saved} requests that a retry saved"))?;
    ensure!(failed == 0 && saved > 0, "requests failed in spite of retries");
    shop.carts.last_mut().context("no cart")?.fault(false)?;
    out.proves("the cart failed as before, and its callers did not notice")
}

fn policy(shop: &mut Shop, out: &mut Transcript) -> anyhow::Result<()> {
    out.step("A policy denies, and says why")?;
    shop.plane.apply("policy", POLICY)?;
    out.asked("AuthorizationPolicy cart-read-only: web may not GET /admin of the cart")?;
    let (status, body) = shop.until("the policy to be in force", |shop| {
        let (status, body) = shop.ask("/admin")?;
        Ok((status != 200).then_some((status, body)))
    })?;
    out.came(&format!("GET /admin: {status} {body}"))?;
    ensure!(status == 403, "403 was expected");
    let line = shop.log_line("GET /admin 403")?;
    out.came(&format!("log: {line}"))?;
    ensure!(
        line.contains("policy[cart-read-only]") && line.contains(WEB),
        "the log does not name the policy"
    );
    let (status, _) = shop.ask("/orders")?;
    out.came(&format!("GET /orders: {status}"))?;
    ensure!(status == 200, "the policy denies too much");
    out.proves("the cart's sidecar decides by the identity in the certificate; its log names the policy, the rule and who was denied")
}

fn outage(shop: &mut Shop, out: &mut Transcript) -> anyhow::Result<()> {
    const TIMES: usize = 40;
    out.step("The control plane is killed, and nothing is lost")?;
    shop.plane.kill();
    out.asked(&format!("SIGKILL to the control plane; {TIMES} requests"))?;
    let [_, v2, failed] = shop.ask_often(TIMES, "/orders")?;
    let (status, _) = shop.ask("/admin")?;
    out.came(&format!("{v2} answers, {failed} failed; GET /admin is still answered {status}"))?;
    ensure!(v2 == TIMES && failed == 0 && status == 403, "that is not as it was before");
    shop.restart_plane()?;
    shop.split(100, 0)?;
    out.asked("the control plane is started again; HTTPRoute cart: 100 % to v1")?;
    let mut failed = 0;
    shop.until("the change to be in force", |shop| {
        let [v1, _, lost] = shop.ask_often(10, "/orders")?;
        failed += lost;
        Ok((v1 == 10).then_some(()))
    })?;
    out.came(&format!("v1 answers, {failed} failed on the way"))?;
    ensure!(failed == 0, "{failed} requests failed");
    out.proves(
        "sidecars go on by themselves, policies included, and follow again when their control plane is back",
    )
}
