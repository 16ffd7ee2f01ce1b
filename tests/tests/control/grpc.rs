//! gRPC's own xDS client: `xds:///` targets, without any proxy.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use outrider_tests::control::{Control, Manifests, service};
use outrider_tests::{binary, left_out, oracle, ports::Lease, wait};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A server that answers calls with its name: `Say` at once, `Flaky` at the third attempt, `Slow` never.
const SERVER: &str = "
import grpc, sys, threading
from concurrent import futures
def flaky(request, context):
    if int(dict(context.invocation_metadata()).get('grpc-previous-rpc-attempts', 0)) < 2:
        context.abort(grpc.StatusCode.UNAVAILABLE, 'not yet')
    return sys.argv[2].encode()
def slow(request, context):
    over = threading.Event()
    context.add_callback(over.set)
    over.wait()
class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        other = {'/demo.Echo/Flaky': flaky, '/demo.Echo/Slow': slow}
        say = lambda request, context: sys.argv[2].encode()
        return grpc.unary_unary_rpc_method_handler(other.get(details.method, say))
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Handler(),))
server.add_insecure_port('127.0.0.1:' + sys.argv[1])
server.start()
print('serving', flush=True)
server.wait_for_termination()
";

/// A client that makes the call that each line names, `Say` by default, and says what came.
const CLIENT: &str = "
import grpc, sys
channel = grpc.insecure_channel('xds:///' + sys.argv[1])
for line in sys.stdin:
    call = channel.unary_unary('/demo.Echo/' + (line.strip() or 'Say'))
    try:
        print(call(b'x', timeout=1000).decode(), flush=True)
    except grpc.RpcError as error:
        print('failed: ' + error.code().name + ' ' + error.details(), flush=True)
";

struct Script {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    fn start(text: &str, args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(oracle::grpc_python()?);
        command.args(["-u", "-c", text]).args(args).envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("a pipe")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    async fn line(&mut self) -> Result<String> {
        let line = async { self.lines.next_line().await?.context("it ended") };
        wait::within("a line", Duration::from_secs(30), line).await
    }

    async fn call(&mut self, method: &str) -> Result<String> {
        use tokio::io::AsyncWriteExt as _;
        self.child.stdin.as_mut().context("a pipe")?.write_all(format!("{method}\n").as_bytes()).await?;
        self.line().await.with_context(|| format!("the answer of {method:?}"))
    }
}

const TARGET: &str = "echo.shop.svc.cluster.local:50051";

/// Whether gRPC for Python is there; without it a test is left out.
fn is_here() -> Result<bool> {
    let Err(error) = oracle::grpc_python() else { return Ok(true) };
    ensure!(!oracle::required(), "no gRPC for Python: {error:#}");
    left_out(format_args!("gRPC's own xDS client: {error:#}"));
    Ok(false)
}

async fn server(lease: &Lease, name: &str) -> Result<Script> {
    let mut server = Script::start(SERVER, &[&lease.port().to_string(), name], &[])?;
    ensure!(server.line().await? == "serving", "it serves");
    Ok(server)
}

fn client(control: &Control) -> Result<Script> {
    let bootstrap = binary::scratch("grpc")?.join("bootstrap.json");
    std::fs::write(
        &bootstrap,
        format!(
            "{{\"xds_servers\": [{{\"server_uri\": \"127.0.0.1:{}\", \"channel_creds\": [{{\"type\": \"insecure\"}}], \
             \"server_features\": [\"xds_v3\"]}}], \"node\": {{\"id\": \
             \"sidecar~127.0.0.1~client.shop~shop.svc.cluster.local\"}}}}",
            control.xds()
        ),
    )?;
    Script::start(CLIENT, &[TARGET], &[("GRPC_XDS_BOOTSTRAP", bootstrap.to_str().context("a path")?)])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_xds_target_is_resolved_and_follows_changes() -> Result<()> {
    if !is_here()? {
        return Ok(());
    }
    let (first, second) = (Lease::new()?, Lease::new()?);
    let _servers = [server(&first, "first").await?, server(&second, "second").await?];
    let manifests = Manifests::new()?;
    manifests.write("echo", &service("shop", "echo", 50051, "grpc", &[first.port()]))?;
    let control = Control::start(&["--manifests", &manifests.dir().to_string_lossy()]).await?;
    let mut client = client(&control)?;
    ensure!(client.call("").await? == "first", "the service answers");

    manifests.write("echo", &service("shop", "echo", 50051, "grpc", &[second.port()]))?;
    wait::until("the other endpoint", wait::LIMIT, async || {
        let answer = client.call("").await?;
        ensure!(!answer.starts_with("failed"), "no call fails on the way: {answer}");
        Ok((answer == "second").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_and_timeouts_of_policies_are_kept_by_clients_without_a_proxy() -> Result<()> {
    if !is_here()? {
        return Ok(());
    }
    let lease = Lease::new()?;
    let _server = server(&lease, "echo").await?;
    let manifests = Manifests::new()?;
    manifests.write("echo", &service("shop", "echo", 50051, "grpc", &[lease.port()]))?;
    let control = Control::start(&["--manifests", &manifests.dir().to_string_lossy()]).await?;
    let mut client = client(&control)?;
    ensure!(client.call("").await? == "echo", "the service answers");
    let answer = client.call("Flaky").await?;
    ensure!(answer.starts_with("failed: UNAVAILABLE"), "nothing is tried again: {answer}");

    let policy = |spec: &str| {
        format!(
            "apiVersion: outrider.dev/v1\nkind: TrafficPolicy\nmetadata: {{ name: echo, namespace: shop }}\nspec:\n  \
             targetRefs: [ {{ group: \"\", kind: Service, name: echo }} ]\n{spec}"
        )
    };
    let retries = "  retries: { on: [ unavailable ], attempts: 2, backoff: { base: 25ms, max: 250ms } }\n";
    manifests.write("policy", &policy(retries))?;
    wait::until("the retries", wait::LIMIT, async || {
        Ok((client.call("Flaky").await? == "echo").then_some(()))
    })
    .await?;

    // gRPC does not come back from retries that are a millisecond or two apart, so ours are further apart.
    // One retry is not enough: when calls fail again the other policy is in force, and its time limit with it.
    let limited = "  retries: { on: [ unavailable ], attempts: 1, backoff: { base: 25ms, max: 250ms } }\n  timeouts: { request: 300ms }\n";
    manifests.write("policy", &policy(limited))?;
    wait::until("the other policy", wait::LIMIT, async || {
        Ok(client.call("Flaky").await?.starts_with("failed").then_some(()))
    })
    .await?;
    let answer = client.call("Slow").await?;
    ensure!(answer.starts_with("failed: DEADLINE_EXCEEDED"), "{answer}");
    Ok(())
}
