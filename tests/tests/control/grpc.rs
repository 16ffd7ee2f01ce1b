//! gRPC's own xDS client: `xds:///` targets, without any proxy.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use outrider_tests::control::{Control, Manifests, service};
use outrider_tests::{binary, left_out, oracle, ports::Lease, wait};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A server that answers every call with its name.
const SERVER: &str = "
import grpc, sys
from concurrent import futures
class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: sys.argv[2].encode())
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Handler(),))
server.add_insecure_port('127.0.0.1:' + sys.argv[1])
server.start()
print('serving', flush=True)
server.wait_for_termination()
";

/// A client that calls once for each line that it reads, and says what came.
const CLIENT: &str = "
import grpc, sys
channel = grpc.insecure_channel('xds:///' + sys.argv[1])
call = channel.unary_unary('/demo.Echo/Say')
for line in sys.stdin:
    try:
        print(call(b'x', timeout=10).decode(), flush=True)
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

    async fn call(&mut self) -> Result<String> {
        use tokio::io::AsyncWriteExt as _;
        self.child.stdin.as_mut().context("a pipe")?.write_all(b"\n").await?;
        self.line().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_xds_target_is_resolved_and_follows_changes() -> Result<()> {
    if let Err(error) = oracle::grpc_python() {
        ensure!(!oracle::required(), "no gRPC for Python: {error:#}");
        left_out(format_args!("gRPC's own xDS client: {error:#}"));
        return Ok(());
    }
    let (first, second) = (Lease::new()?, Lease::new()?);
    let mut servers = Vec::new();
    for (lease, name) in [(&first, "first"), (&second, "second")] {
        let mut server = Script::start(SERVER, &[&lease.port().to_string(), name], &[])?;
        ensure!(server.line().await? == "serving", "it serves");
        servers.push(server);
    }
    let manifests = Manifests::new()?;
    manifests.write("echo", &service("shop", "echo", 50051, "grpc", &[first.port()]))?;
    let control = Control::start(&["--manifests", &manifests.dir().to_string_lossy()]).await?;
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
    let target = "echo.shop.svc.cluster.local:50051";
    let env = [("GRPC_XDS_BOOTSTRAP", bootstrap.to_str().context("a path")?)];
    let mut client = Script::start(CLIENT, &[target], &env)?;
    ensure!(client.call().await? == "first", "the service answers");

    manifests.write("echo", &service("shop", "echo", 50051, "grpc", &[second.port()]))?;
    wait::until("the other endpoint", wait::LIMIT, async || {
        let answer = client.call().await?;
        ensure!(!answer.starts_with("failed"), "no call fails on the way: {answer}");
        Ok((answer == "second").then_some(()))
    })
    .await?;
    drop(servers);
    Ok(())
}
