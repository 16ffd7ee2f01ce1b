//! The mesh of the demo: a shop of the applications `web`, `cart` v1 and `cart` v2, each with its sidecar, and their control plane.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::child::{Child, Stop, until};
use super::network::{self, BRIDGE, Space};
use super::plane::{Plane, Ports};
use super::pod::{ADMIN, PORT, PROXY, Place, Pod, holder};
use super::relay::{self, Passed};
use super::tools::Programs;

/// The addresses of the services `web` and `cart`, which nobody has.
const SERVICES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 89, 0, 1), Ipv4Addr::new(10, 89, 0, 2)];
/// The pods, with their accounts.
const PODS: [(&str, &str); 3] = [("web", "web"), ("cart-v1", "cart"), ("cart-v2", "cart")];
const SHOP: &str = include_str!("mesh/shop.yaml");
const SPLIT: &str = include_str!("mesh/split.yaml");

/// The mesh. It is taken down from top to bottom.
#[derive(Debug)]
pub(super) struct Shop {
    /// Who calls.
    pub(super) web: Pod,
    /// Who is called: v1 and v2.
    pub(super) carts: Vec<Pod>,
    /// The control plane.
    pub(super) plane: Plane,
    /// The namespace of the bridge; `None` without namespaces.
    pub(super) fabric: Option<Child>,
    /// What passed between sidecars, where there is no wire to listen at.
    pub(super) passed: Passed,
    /// Where the pages for people are.
    pub(super) page: Option<SocketAddr>,
    /// The port at which the carts are called.
    pub(super) called: u16,
    folder: PathBuf,
    stop: Stop,
}

impl Shop {
    /// Builds all of it, with pods as network namespaces or without, and waits until it works.
    pub(super) fn open(
        programs: Programs,
        namespaces: bool,
        folder: &Path,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let own = |name: &str| folder.join(name);
        let (fabric, space) = if namespaces {
            let (child, space) = holder(folder)?;
            network::bridge(&space)?;
            (Some(child), space)
        } else {
            (None, Space::here())
        };
        let (places, called) = if namespaces { (in_namespaces(), PORT) } else { on_loopback()? };
        fs::create_dir(own("logs"))?;
        if namespaces {
            chown(own("logs"), Some(PROXY), Some(PROXY))?;
        }
        fs::write(own("hosts"), hosts())?;
        let mut pods = Vec::new();
        for ((name, _), place) in PODS.into_iter().zip(&places) {
            let fabric = fabric.as_ref().map(|_| &space);
            let pod = Pod::start(name, place.clone(), fabric, &own("hosts"), folder)?;
            if namespaces {
                pod.capture().with_context(|| format!("capturing the traffic of {name}"))?;
            }
            pods.push(pod);
        }
        let (host, ports) = if namespaces {
            (BRIDGE, Ports { xds: 15010, api: 15020, status: 15021 })
        } else {
            let [xds, api, status] = free(Ipv4Addr::LOCALHOST)?;
            (Ipv4Addr::LOCALHOST, Ports { xds, api, status })
        };
        let admins = PODS.iter().zip(&pods).map(|((name, _), pod)| format!("{name}.shop={}", pod.admin()));
        let mut plane = Plane::new(programs, space, folder, host, ports, admins.collect())?;
        plane.apply("shop", &shop(&places, called, &own("logs").join("access.log").to_string_lossy()))?;
        plane.apply("split", &split(100, 0))?;
        plane.start(stop)?;
        for ((name, account), pod) in PODS.into_iter().zip(&mut pods) {
            pod.join(&plane, account).with_context(|| format!("starting the sidecar of {name}"))?;
        }
        for pod in &mut pods {
            pod.is_ready(stop)?;
        }
        let passed = Passed::default();
        for place in &places {
            if let Some(to) = place.inbound {
                let from = (place.address, called).into();
                relay::start(from, &Space::here(), to, Some(&passed))?;
            }
        }
        let page = match plane.page() {
            Some(page) if namespaces => {
                Some(relay::start((Ipv4Addr::LOCALHOST, 0).into(), plane.space(), page, None)?)
            }
            page => page,
        };
        let web = pods.remove(0);
        let stop = stop.clone();
        let mut shop =
            Self { web, carts: pods, plane, fabric, passed, page, called, folder: folder.to_owned(), stop };
        shop.until("the first answer of the cart", |shop| {
            Ok(shop.ask("/").ok().filter(|(status, _)| *status == 200).map(drop))
        })?;
        Ok(shop)
    }

    /// `web` asks `cart`.
    pub(super) fn ask(&mut self, path: &str) -> anyhow::Result<(u16, String)> {
        self.web.get("cart", path)
    }

    /// Asks some times; gives how many answers came of v1, of v2, and how many were no 200.
    pub(super) fn ask_often(&mut self, times: usize, path: &str) -> anyhow::Result<[usize; 3]> {
        let mut tally = [0; 3];
        for _ in 0..times {
            let (status, body) = self.ask(path)?;
            let [v1, v2, failed] = &mut tally;
            match status {
                200 if body.starts_with("cart-v1 ") => *v1 += 1,
                200 => *v2 += 1,
                _ => *failed += 1,
            }
        }
        Ok(tally)
    }

    /// Waits until something is so.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let stop = self.stop.clone();
        until(&stop, what, || look(self))
    }

    /// Sends so many percent of the requests to v1 and v2.
    pub(super) fn split(&self, v1: u32, v2: u32) -> anyhow::Result<()> {
        self.plane.apply("split", &split(v1, v2))
    }

    /// Starts the control plane again.
    pub(super) fn restart_plane(&mut self) -> anyhow::Result<()> {
        self.plane.start(&self.stop)
    }

    /// The line of the access log, which the carts' sidecars write, with some text.
    pub(super) fn log_line(&mut self, text: &str) -> anyhow::Result<String> {
        let path = self.access_log();
        self.until("a line of the access log", |_| {
            let log = fs::read_to_string(&path).unwrap_or_default();
            // The last line may still be on its way.
            let whole = log.rfind('\n').and_then(|end| log.get(..end)).unwrap_or_default();
            Ok(whole.lines().rev().find(|line| line.contains(text)).map(str::to_owned))
        })
    }

    /// Where the access log is.
    pub(super) fn access_log(&self) -> PathBuf {
        self.folder.join("logs").join("access.log")
    }

    /// The folder with all files of the demo.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The space of the bridge.
    pub(super) const fn wire(&self) -> &Space {
        self.plane.space()
    }
}

fn in_namespaces() -> Vec<Place> {
    let place = |last| Place {
        address: Ipv4Addr::new(10, 88, 0, last),
        application: PORT,
        admin: ADMIN,
        http: 15080,
        inbound: None,
    };
    [10, 11, 12].map(place).to_vec()
}

/// Two addresses of the loopback for each pod: its own, where a relay stands for the wire, and that of its sidecar.
fn on_loopback() -> anyhow::Result<(Vec<Place>, u16)> {
    // Whoever else runs the demo here takes other ports; the addresses may be shared.
    let [called] = free(Ipv4Addr::new(127, 88, 0, 11))?;
    let mut places = Vec::new();
    for last in [10, 11, 12] {
        let address = Ipv4Addr::new(127, 88, 0, last);
        let [application, admin] = free(address)?;
        let [http] = free(Ipv4Addr::LOCALHOST)?;
        let inbound = Some((Ipv4Addr::new(127, 88, 1, last), called).into());
        places.push(Place { address, application, admin, http, inbound });
    }
    Ok((places, called))
}

/// Ports that nobody listens at.
fn free<const N: usize>(address: Ipv4Addr) -> anyhow::Result<[u16; N]> {
    let mut taken = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((address, 0)).with_context(|| format!("a port at {address}"))?;
        *port = listener.local_addr()?.port();
        taken.push(listener);
    }
    Ok(ports)
}

/// The names that pods know, which DNS would tell in a cluster.
fn hosts() -> String {
    let [web, cart] = SERVICES;
    format!(
        "127.0.0.1 localhost\n{web} web web.shop web.shop.svc.cluster.local\n{cart} cart cart.shop cart.shop.svc.cluster.local\n"
    )
}

fn shop(places: &[Place], called: u16, log: &str) -> String {
    let address = |index: usize| places.get(index).map(|it| it.address.to_string()).unwrap_or_default();
    let [web, cart] = SERVICES;
    SHOP.replace("@WEB_IP@", &web.to_string())
        .replace("@CART_IP@", &cart.to_string())
        .replace("@PORT@", &called.to_string())
        .replace("@WEB@", &address(0))
        .replace("@CART_V1@", &address(1))
        .replace("@CART_V2@", &address(2))
        .replace("@LOG@", log)
}

fn split(v1: u32, v2: u32) -> String {
    SPLIT.replace("@V1@", &v1.to_string()).replace("@V2@", &v2.to_string())
}
