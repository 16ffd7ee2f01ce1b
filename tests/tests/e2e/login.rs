//! Users who log in at an authorization server: a small one, whose token endpoint is scripted. Where there is an oracle, users go from one
//! proxy to the other with their sessions.

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    bootstrap::Bootstrap,
    client::{Conn, Response},
    oracle,
    ports::Lease,
    proxy::{Kind, Proxy},
    record::Diary,
    reply::{Reply, Script},
    upstream::Upstream,
};

use crate::start::places;

const TYPE: &str = "type.googleapis.com/envoy.extensions";

/// Answers tell what goes upstream.
fn bootstrap() -> Bootstrap {
    let manager = format!(
        "stat_prefix: main\nhttp_filters:\n- name: login\n  typed_config:\n    \
         \"@type\": {TYPE}.filters.http.oauth2.v3.OAuth2\n    config:\n      \
         token_endpoint: {{ uri: \"http://auth.test/token\", cluster: auth, timeout: 20s }}\n      \
         authorization_endpoint: \"https://auth.test/authorize\"\n      \
         redirect_uri: \"http://%REQ(:authority)%/callback\"\n      \
         redirect_path_matcher: {{ path: {{ exact: /callback }} }}\n      signout_path: {{ path: {{ exact: /signout }} }}\n      \
         forward_bearer_token: true\n      auth_scopes: [ openid ]\n      \
         credentials: {{ client_id: me, token_secret: {{ name: client }}, hmac_secret: {{ name: mac }} }}\n\
         - name: router\n  typed_config: {{ \"@type\": {TYPE}.filters.http.router.v3.Router }}\n\
         route_config: {{ virtual_hosts: [ {{ name: all, domains: [ \"*\" ], routes: [ {{ match: {{ prefix: / }}, direct_response: {{ status: 200 }}, \
         response_headers_to_add: [ {{ header: {{ key: x-seen, value: \"%REQ(authorization)%\" }} }}, {{ header: {{ key: x-cookie, value: \"%REQ(cookie)%\" }} }} ] }} ] }} ] }}\n"
    );
    Bootstrap::new()
        .http("main", &manager)
        .hosts("auth", &["auth"], "")
        .secret("client", "generic_secret: { secret: { inline_string: \"hush&\" } }\n")
        .secret("mac", "generic_secret: { secret: { inline_string: \"of all proxies\" } }\n")
}

/// A browser: it keeps the cookies that it gets.
#[derive(Default)]
struct Browser(Vec<(String, String)>);

impl Browser {
    async fn get(&mut self, port: u16, path: &str) -> Result<Response> {
        let cookies: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies =
            if cookies.is_empty() { String::new() } else { format!("cookie: {}\r\n", cookies.join("; ")) };
        let mut conn = Conn::plain(port).await?;
        conn.send(format!("GET {path} HTTP/1.1\r\nhost: app.test\r\n{cookies}\r\n")).await?;
        let response = conn.response("GET").await?;
        for (_, cookie) in response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
        {
            let (name, rest) = cookie.split_once('=').context("a cookie has a name")?;
            let value = rest.split(';').next().unwrap_or_default();
            self.0.retain(|(known, _)| known != name);
            if value != "deleted" {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
        Ok(response)
    }

    fn cookie(&mut self, name: &str) -> Option<&mut String> {
        self.0.iter_mut().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Logs in from `/page`, and is where it wanted to go.
    async fn log_in(&mut self, port: u16) -> Result<()> {
        let away = self.get(port, "/page?x=1").await?;
        let location = away.header("location").context("sent to log in")?;
        ensure!(away.status == 302 && location.starts_with("https://auth.test/authorize?"), "{away:?}");
        let state = location.split("state=").nth(1).and_then(|rest| rest.split('&').next());
        let state = state.context("a state")?.to_owned();
        let back = self.get(port, &format!("/callback?code=given&state={state}")).await?;
        ensure!(back.status == 302, "{back:?}");
        ensure!(back.header("location") == Some("http://app.test/page?x=1"), "{back:?}");
        ensure!(!self.0.iter().any(|(name, _)| name.starts_with("OauthNonce")), "the login is over");
        Ok(())
    }
}

fn tokens(access: &str, seconds: u32) -> Reply {
    Reply::text(&format!(
        r#"{{"access_token":"{access}","refresh_token":"again","token_type":"bearer","expires_in":{seconds}}}"#
    ))
}

/// A proxy with its authorization server.
struct Stage {
    proxy: Proxy,
    port: u16,
    diary: Diary,
    script: Script,
    _server: Upstream,
    _leases: Vec<Lease>,
}

async fn start(kind: Kind) -> Result<Stage> {
    let (server, diary, script) = Upstream::http("auth").await?;
    let bootstrap = bootstrap();
    let (mut places, leases) = places(&bootstrap)?;
    places.insert("auth".to_owned(), server.address().port().to_string());
    let port = places["main"].parse()?;
    let proxy = Proxy::start(kind, &bootstrap.render(&places), places["admin"].parse()?, &[]).await?;
    Ok(Stage { proxy, port, diary, script, _server: server, _leases: leases })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_logs_in_is_renewed_and_logs_out() -> Result<()> {
    let stage = start(Kind::Outrider).await?;
    let Stage { proxy, port, diary, script, .. } = &stage;
    let port = *port;
    let mut browser = Browser::default();
    script.set(&[tokens("one", 1000)], &[]);
    browser.log_in(port).await?;
    let asked = diary.since(0);
    let asked = String::from_utf8_lossy(&asked.first().context("nothing was asked")?.body).into_owned();
    ensure!(asked.contains("code=given&client_id=me&client_secret=hush%26&"), "{asked}");
    ensure!(asked.contains("&code_verifier="), "{asked}");
    let page = browser.get(port, "/page").await?;
    ensure!(page.status == 200 && page.header("x-seen") == Some("Bearer one"), "{page:?}");
    ensure!(page.header("x-cookie") == Some("BearerToken=one"), "upstreams get no secret of ours: {page:?}");
    // The session is nobody else's: a changed end is no end.
    let end = browser.cookie("OauthExpires").context("an end")?;
    let real = std::mem::replace(end, "4102444800".to_owned());
    script.set(&[Reply::status(400)], &[]);
    let refused = browser.get(port, "/page").await?;
    ensure!(refused.status == 302, "{refused:?}");
    *browser.cookie("OauthExpires").context("an end")? = real;
    // One that is over is renewed on the way.
    *browser.cookie("OauthHMAC").context("a signature")? = "old".to_owned();
    browser.0.push(("IdToken".to_owned(), "forged".to_owned()));
    script.set(&[tokens("two", 1000)], &[]);
    let renewed = browser.get(port, "/page").await?;
    ensure!(renewed.status == 200 && renewed.header("x-seen") == Some("Bearer two"), "{renewed:?}");
    ensure!(renewed.header("x-cookie") == Some("BearerToken=two"), "nothing forged goes along: {renewed:?}");
    script.set(&[Reply::status(500)], &[]);
    let page = browser.get(port, "/page").await?;
    ensure!(page.header("x-seen") == Some("Bearer two"), "the new session holds: {page:?}");
    let out = browser.get(port, "/signout").await?;
    ensure!(out.status == 302 && out.header("location") == Some("http://app.test/"), "{out:?}");
    let left: Vec<&str> = browser.0.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(left.is_empty(), "{left:?}");
    ensure!(browser.get(port, "/page").await?.status == 302, "it is over");
    for (name, count) in
        [("oauth_unauthorized_rq", 3), ("oauth_refreshtoken_success", 1), ("oauth_refreshtoken_failure", 1)]
    {
        let told = proxy.stat(&format!("http.main.{name}")).await?;
        ensure!(told == Some(count), "{name}: {told:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_an_end_is_no_session() -> Result<()> {
    let stage = start(Kind::Outrider).await?;
    let (port, script) = (stage.port, &stage.script);
    let mut browser = Browser::default();
    let away = browser.get(port, "/page").await?;
    let state = away.header("location").and_then(|to| to.split("state=").nth(1)).context("a state")?;
    let state = state.split('&').next().unwrap_or_default().to_owned();
    script.set(&[Reply::text(&format!("{{\"access_token\":\"{}\"", "a".repeat(2 << 20)))], &[]);
    let back = browser.get(port, &format!("/callback?code=given&state={state}")).await?;
    ensure!(back.status == 401 && back.text() == "OAuth flow failed.", "{back:?}");
    ensure!(browser.0.is_empty(), "nothing of the login is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_from_one_proxy_to_the_other() -> Result<()> {
    if oracle::envoy().is_err() {
        return Ok(());
    }
    let ours = start(Kind::Outrider).await?;
    let theirs = start(Kind::Envoy).await?;
    ours.script.set(&[tokens("ours", 1000)], &[]);
    theirs.script.set(&[tokens("theirs", 1000)], &[]);
    for (from, to, seen) in
        [(ours.port, theirs.port, "Bearer ours"), (theirs.port, ours.port, "Bearer theirs")]
    {
        let mut browser = Browser::default();
        browser.log_in(from).await?;
        let page = browser.get(to, "/page").await?;
        ensure!(page.status == 200 && page.header("x-seen") == Some(seen), "{seen}: {page:?}");
    }
    Ok(())
}
